"""A model with what it was taught."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from narrowtune.delta.delta import apply_deltas, check_alpha, read_delta
from narrowtune.errors import InputError
from narrowtune.models.loading import choose_dtype, load_model

Paths = str | Path | Sequence[str | Path]


def load(  # noqa: PLR0913 - as many as `load_model` takes, and two
    base: str,
    *,
    delta: Paths | None = None,
    alpha: float = 1.0,
    revision: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
    trust_remote_code: bool = False,
) -> nn.Module:
    """The model, with a delta or the deltas of successive stages on it, in evaluation mode.

    Args:
        base: A bundled name, a local folder or a hub id.
        delta: Path of a delta file, or several, in the order of their stages.
        alpha: The share of the (last) delta: 0 the base, 1 the trained weights.
        revision: Commit of a hub model.
        dtype: `float32`, `bfloat16` or `auto`. A delta is applied in the dtype it was trained in,
            which is also what `auto` then means.
        device: A torch device; the GPU where there is one, otherwise the CPU.
        trust_remote_code: Whether Python code that comes with the model may run.

    Raises:
        InputError: If the base is no model, or a delta is damaged or not of this base.
    """
    if delta is None:
        return load_model(base, revision, dtype, device, trust_remote_code)
    check_alpha(alpha)
    paths = [delta] if isinstance(delta, str | Path) else list(delta)
    if not paths:
        raise InputError("delta is an empty list; name a file, or leave it out")
    deltas = [read_delta(path) for path in paths]
    trained_in = deltas[0].header.base.dtype
    model = load_model(base, revision, trained_in, device, trust_remote_code)
    apply_deltas(model, deltas, alpha)
    return model if dtype == "auto" else model.to(choose_dtype(dtype, "cpu"))
