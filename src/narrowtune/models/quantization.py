"""Which frozen matrices of a model are quantised, and how its weights are read so."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from narrowtune.anatomy import Anatomy
from narrowtune.errors import InputError, nearest
from narrowtune.models.quantized_linear import (
    BLOCK,
    NF4,
    QuantizedLinear,
    bitsandbytes,
    bytes_of,
    replace_layer,
)
from narrowtune.models.skeleton import build_skeleton, load_config
from narrowtune.models.supervised import output_head
from narrowtune.record import Quantization

NONE = "none"
KINDS = (NONE, NF4)

_DEVICES = ("cpu", "cuda")
_EXTRA = "pip install 'narrowtune[quantization]'"
# Parts that are few numbers, or whose rounding shows at once in what the model says.
_LEFT = ("head", "embed", "router")


def quantizable(model: nn.Module, anatomy: Anatomy) -> dict[str, int]:
    """The layers that can be quantised, with how many numbers their matrices have.

    Plain linear layers of known towers, neither tied nor output head, embedding or router.

    Args:
        model: Its skeleton.
        anatomy: Its own.
    """
    tensors = {one.name: one for one in anatomy.parameters}
    tied = {name for one in anatomy.parameters if one.tied_to for name in (one.name, one.tied_to)}
    kept, head = _kept_in_fp32(model), output_head(model)
    found = {}
    for path, module in model.named_modules():
        tensor = tensors.get(f"{path}.weight")
        if type(module) is not nn.Linear or tensor is None or tensor.name in tied:
            continue
        known = tensor.tower != "other" and tensor.part not in _LEFT
        known = known and module.in_features % 2 == 0  # two numbers share a byte
        if known and module is not head and not kept(path):
            found[path] = tensor.numel
    return found


def quantization_for(
    model: nn.Module, anatomy: Anatomy, kind: str, trained: Mapping[str, Iterable[str]]
) -> Quantization | None:
    """What of a model is quantised, where some of it is to stay as it is.

    Args:
        model: Its skeleton.
        anatomy: Its own.
        kind: One of `KINDS`.
        trained: What stays, by who wants it: names of parameters, or of modules.

    Returns:
        None for `none`.

    Raises:
        InputError: There is no such kind, the model is quantised already, or nothing is left.
    """
    if kind not in KINDS:
        raise InputError(f"no quantization {kind!r}; {nearest(kind, KINDS)}")
    if kind == NONE:
        return None
    source: Any = model
    if given := getattr(source.config, "quantization_config", None):
        how = given.get("quant_method") if isinstance(given, dict) else given.quant_method
        raise InputError(
            f"its weights are quantised already ({getattr(how, 'value', how)}), and can't be once "
            f"more: leave quantization: {kind} out"
        )
    possible = quantizable(model, anatomy)
    stays = {who: _touched(possible, names) for who, names in trained.items()}
    left = {
        path: size for path, size in possible.items() if not any(path in s for s in stays.values())
    }
    if not left:
        raise InputError(_nothing_left(kind, possible, stays))
    return Quantization(
        type=kind, modules=tuple(left), numel=sum(left.values()), total_numel=anatomy.total_numel
    )


def _touched(possible: Iterable[str], names: Iterable[str]) -> set[str]:
    """Layers that one of the parameters or modules is, or lies in."""
    known, found = set(possible), set()
    for name in names:
        path = name
        while path:
            found |= {path} & known
            path = path.rpartition(".")[0]
    within = tuple(f"{name}." for name in names)
    return found | {path for path in known if path.startswith(within)}


def _nothing_left(kind: str, possible: Iterable[str], stays: Mapping[str, set[str]]) -> str:
    whole = [who for who, touched in stays.items() if touched >= set(possible)]
    by = f"{whole[0]} trains" if whole else f"{', '.join(stays)} together train"
    return (
        f"nothing is left to quantise: {by} every matrix of a linear layer, and what is trained "
        f"stays as it is; leave quantization: {kind} out, or train less"
        if set(possible)
        else "it has no plain linear layers, so nothing can be quantised"
    )


def _kept_in_fp32(model: nn.Module) -> Callable[[str], bool]:
    """Which layers a class asks to be kept in fp32: transformers leaves them alone, by pattern."""
    from transformers.quantizers.quantizers_utils import should_convert_module

    lists = (getattr(model, f"_keep_in_fp32_modules{kind}", None) or () for kind in ("", "_strict"))
    patterns = [pattern for one in lists for pattern in one]
    return lambda path: not should_convert_module(path, patterns)


def check_quantization(kind: str, device: str = "cpu") -> None:
    """Refuse what can't be computed on this machine.

    Raises:
        InputError: Its package is not installed, or knows no such device.
    """
    if kind == NONE:
        return
    if find_spec("bitsandbytes") is None:
        raise InputError(
            f"quantization {kind} needs the package bitsandbytes, which is not installed: {_EXTRA}"
        )
    if (where := torch.device(device).type) not in _DEVICES:
        raise InputError(
            f"quantization {kind} is computed on {' and '.join(_DEVICES)}, not on {where}: leave "
            "it out, or name another device"
        )


def weight_bytes(numel: int, dtype: torch.dtype, quantization: Quantization | None) -> int:
    """What a model's weights take.

    Args:
        numel: How many numbers it has.
        dtype: Of those that are not quantised.
        quantization: What of them is.
    """
    packed = quantization.numel if quantization else 0
    return (numel - packed) * dtype.itemsize + bytes_of(packed)


def all_quantized(
    model: str, kind: str, revision: str | None = None, trust_remote_code: bool = False
) -> Quantization | None:
    """Everything that can be quantised of a model that nothing is to be trained in.

    Args:
        model: A bundled name, a local folder or a hub id.
        kind: One of `KINDS`.
        revision: Commit of a hub model.
        trust_remote_code: Whether Python code that comes with the model may run.

    Raises:
        InputError: There is no such kind, or nothing in the model can be.
    """
    config = load_config(model, revision, trust_remote_code)
    return quantization_for(build_skeleton(config), Anatomy.of(config), kind, {})


def loading_options(model: nn.Module, quantization: Quantization, device: str) -> dict[str, Any]:
    """What `from_pretrained` needs, to pack each matrix as it reads it.

    Args:
        model: The skeleton of what is loaded.
        quantization: What is to be quantised.
        device: Where to.
    """
    bitsandbytes()
    from transformers import BitsAndBytesConfig
    from transformers.pytorch_utils import Conv1D

    chosen = set(quantization.modules)
    others = [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and path not in chosen
    ]
    # Names are matched as patterns, from their start or as mere ends of a path: a `$` ends the
    # first, and no path ends with it.
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.type,
        bnb_4bit_use_double_quant=False,
        llm_int8_skip_modules=[f"{re.escape(path)}$" for path in others],
    )
    return {"quantization_config": config, "device_map": {"": device}}


def settle(model: nn.Module, quantization: Quantization, dtype: torch.dtype) -> None:
    """Put our layers in the place of those that transformers packed, and forget its settings.

    Args:
        model: As `from_pretrained` gave it; changed in place.
        quantization: What was asked for.
        dtype: What it computes in.

    Raises:
        InputError: Others were quantised than those asked for.
    """
    from bitsandbytes.nn import Linear4bit

    found = {path: one for path, one in model.named_modules() if isinstance(one, Linear4bit)}
    if strange := sorted(found.keys() ^ set(quantization.modules)):
        raise InputError(
            f"{type(model).__name__} can't be quantised as asked: transformers quantises other "
            f"layers than {quantization.type} was asked for ({len(strange)}, first {strange[0]})"
        )
    for path, layer in found.items():
        state = layer.weight.quant_state
        assert state.blocksize == BLOCK and state.absmax.dtype == torch.float32 and not state.nested
        shape = (layer.out_features, layer.in_features)
        fresh = QuantizedLinear(layer.weight.data, state.absmax, layer.bias, shape, dtype)
        replace_layer(model, path, fresh.train(layer.training))
        layer.weight.module = None  # a circle, which would keep the bias until it is collected
    _own_memory(model)
    _forget(model)


def _own_memory(model: nn.Module) -> None:
    """Copy what lies in the file's memory: one view of it would keep all that was read resident."""
    for parameter in model.parameters():
        if parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()


def _forget(model: nn.Module) -> None:
    """Take off what says that transformers has quantised it: it knows our layers no more."""
    source: Any = model
    source.hf_quantizer.remove_quantization_config(source)
    for name in ("is_loaded_in_4bit", "hf_device_map"):
        source.__dict__.pop(name, None)


def computed_by() -> str:
    """The package that packs and unpacks, with its version."""
    return f"bitsandbytes {version('bitsandbytes')}"


def quantization_notes(quantization: Quantization | None) -> list[str]:
    """What a careful user wants to know of a quantised base."""
    if quantization is None:
        return []
    share = quantization.numel / quantization.total_numel
    return [
        f"the base is quantised: {quantization.numel:,} of its {quantization.total_numel:,} "
        f"numbers ({share:.0%}, {len(quantization.modules)} matrices that no arm trains) are "
        f"rounded to {quantization.type}; scores before training are that base's, and a delta fits "
        "it alone; no model folders are written (narrowtune delta apply writes one, unpacked)"
    ]
