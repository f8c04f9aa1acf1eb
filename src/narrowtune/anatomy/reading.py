"""The anatomy of a module: its tensors read one by one, and named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from narrowtune.anatomy.anatomy import Anatomy
from narrowtune.anatomy.naming import Naming
from narrowtune.anatomy.tensors import TensorInfo
from narrowtune.anatomy.windows import plain_buffers, plain_parameters


def read_module(model: nn.Module) -> Anatomy:
    """The anatomy of a module on any device; a selection may be applied to it or not."""
    class_name = type(model).__name__
    config = getattr(model, "config", None)
    family = str(getattr(config, "model_type", class_name))
    names = [name for name, _ in plain_parameters(model, remove_duplicate=False)]
    naming = Naming(family, names, config if hasattr(config, "model_type") else None)
    return Anatomy(
        family=family,
        class_name=class_name,
        parameters=tuple(_parameters(model, naming)),
        buffers=tuple(_buffers(model, naming)),
    )


def _parameters(model: nn.Module, naming: Naming) -> Iterator[TensorInfo]:
    """Each parameter under each of its names; the first name owns it, as in PyTorch."""
    owners: dict[int, str] = {}
    for name, parameter in plain_parameters(model, remove_duplicate=False):
        owner = owners.setdefault(id(parameter), name)
        tied_to = None if owner == name else owner
        yield _tensor(naming, name, parameter, tied_to=tied_to)


def _buffers(model: nn.Module, naming: Naming) -> Iterator[TensorInfo]:
    for name, buffer, persistent in plain_buffers(model):
        yield _tensor(naming, name, buffer, buffer=True, persistent=persistent)


def _tensor(naming: Naming, name: str, tensor: Tensor, **facts: Any) -> TensorInfo:
    shape = tuple(tensor.shape)
    place = naming.place(name, shape)
    return TensorInfo(
        name=name,
        shape=shape,
        numel=tensor.numel(),
        dtype=str(tensor.dtype).removeprefix("torch."),
        tower=place.tower,
        part=place.part,
        layer=place.layer,
        slices=place.slices,
        **facts,
    )
