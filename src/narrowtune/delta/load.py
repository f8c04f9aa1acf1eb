"""A model with what it was taught."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from narrowtune.delta.delta import Delta, apply_deltas, check_alpha, give_experts, read_delta
from narrowtune.errors import InputError
from narrowtune.models.loading import choose_dtype, load_model
from narrowtune.models.quantization import NONE, all_quantized
from narrowtune.record import Quantization

AUTO = "auto"
Deltas = str | Path | Delta | Sequence[str | Path | Delta]


def load(  # noqa: PLR0913 - as many as `load_model` takes, and two
    base: str,
    *,
    delta: Deltas | None = None,
    alpha: float = 1.0,
    revision: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
    trust_remote_code: bool = False,
    quantization: str = AUTO,
) -> nn.Module:
    """The model, with a delta or the deltas of successive stages on it, in evaluation mode.

    Args:
        base: A bundled name, a local folder or a hub id.
        delta: A delta or its file, or several, in the order of their stages.
        alpha: The share of the (last) delta: 1 gives the trained weights, 0 what it began from.
        revision: Commit of a hub model.
        dtype: `float32`, `bfloat16` or `auto`. A delta is applied in the dtype it was trained in,
            which is also what `auto` then means.
        device: A torch device; the GPU where there is one, otherwise the CPU.
        trust_remote_code: Whether Python code that comes with the model may run.
        quantization: `auto` packs what was packed when the delta was trained, and nothing without
            a delta; `none` nothing, where such a delta is refused; `nf4` every matrix that can be,
            or with a delta those that were.

    Raises:
        InputError: If the base is no model, or a delta is damaged or not of this base.
    """
    check_alpha(alpha)
    source: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    if delta is None:
        if alpha != 1.0:
            raise InputError(f"alpha {alpha:g} is a share of a delta, and no delta is given")
        packed = quantization_asked(base, quantization, (), **source)
        return load_model(base, revision, dtype, device, trust_remote_code, packed)
    given = [delta] if isinstance(delta, str | Path | Delta) else list(delta)
    if not given:
        raise InputError("delta is an empty list; name a file, or leave it out")
    wanted = choose_dtype(dtype, "cpu")
    deltas = [one if isinstance(one, Delta) else read_delta(one) for one in given]
    trained_in = deltas[0].header.base.dtype
    packed = quantization_asked(base, quantization, deltas, **source)
    model = load_model(base, revision, trained_in, device, trust_remote_code, packed)
    apply_deltas(model, deltas, alpha)
    if dtype == "auto" or wanted == choose_dtype(trained_in, "cpu"):
        return model
    # Loaded in the other dtype rather than cast, which would round what stays in fp32 (rotary
    # frequencies) too.
    other = load_model(base, revision, dtype, device, trust_remote_code, packed)
    give_experts(other, deltas[0].header)
    other.load_state_dict(model.state_dict())
    return other


def quantization_asked(
    base: str,
    kind: str,
    deltas: Sequence[Delta],
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Quantization | None:
    """What of a base is to be quantised, by what is asked and what its deltas were trained on.

    Args:
        base: A bundled name, a local folder or a hub id.
        kind: `auto`, `none` or `nf4`, as `load` takes it.
        deltas: What is to be put on it.
        revision: Commit of a hub model.
        trust_remote_code: Whether Python code that comes with the model may run.

    Raises:
        InputError: There is no such kind, or the base can't be quantised.
    """
    known = deltas[0].header.base.quantization if deltas else None
    trained_on = known.type if known else NONE
    if kind in (AUTO, trained_on) and (deltas or kind == AUTO):
        return known
    return all_quantized(base, kind, revision, trust_remote_code)
