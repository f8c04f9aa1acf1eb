"""An encoder's output taken apart into tensors, put together again, and joined with others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Plan = Any
"""How outputs are joined: "rows" (tensors one after the other), "items" (sequences one after the
other), or a list with a plan for each item."""


class Unfit(Exception):
    """This encoder's output can't be kept, or not be handed back; the reason in words."""


def attributes(output: Any) -> dict[str, Any]:
    """What an output says by name; what is no record of names has one, the empty one."""
    if dataclasses.is_dataclass(output):
        return {name: value for name, value in vars(output).items() if value is not None}
    return {"": output}


def remade(kind: type, values: Mapping[str, Any]) -> Any:
    """An output of this class that says the same."""
    if not dataclasses.is_dataclass(kind):
        return values[""]
    declared = {one.name for one in dataclasses.fields(kind)}
    output = kind(**{name: value for name, value in values.items() if name in declared})
    for name in values.keys() - declared:
        setattr(output, name, values[name])
    return output


def apart(value: Any, into: dict[str, Tensor]) -> Any:
    """The shape of nested sequences as plain data, their tensors put `into` by number.

    Raises:
        Unfit: There is more than sequences, tensors and plain values.
    """
    if isinstance(value, Tensor):
        into[name := str(len(into))] = value
        return {"tensor": name}
    if type(value) in (list, tuple):
        return {type(value).__name__: [apart(one, into) for one in value]}
    if value is None or type(value) in (bool, int, float, str):
        return {"plain": value}
    raise Unfit(f"its encoder gives a {type(value).__name__}")


def together(shape: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `apart` took apart."""
    ((kind, what),) = shape.items()
    if kind == "tensor":
        return tensors[what]
    if kind == "plain":
        return what
    items = [together(one, tensors) for one in what]
    return items if kind == "list" else tuple(items)


def plan_of(one: Any, other: Any, both: Any) -> Plan:
    """How two outputs are joined so that the result is shaped as the output for both.

    Raises:
        Unfit: There is no such way.
    """
    if isinstance(both, Tensor):
        rows = both.dim() > 0 and one.shape[1:] == both.shape[1:] == other.shape[1:]
        if rows and len(one) + len(other) == len(both):
            return "rows"
    elif isinstance(both, list | tuple):
        if len(one) + len(other) == len(both):
            return "items"
        if len(one) == len(other) == len(both):
            return [plan_of(*parts) for parts in zip(one, other, both, strict=True)]
    raise Unfit("what its encoder gives for several images is not what it gives for each, in turn")


def joined(plan: Plan, outputs: Sequence[Any]) -> Any:
    """Several outputs as one."""
    if plan == "rows":
        return torch.cat(list(outputs), dim=0)
    kind = type(outputs[0])
    if plan == "items":
        return kind(item for output in outputs for item in output)
    parts = zip(*outputs, strict=True)
    return kind(joined(one, part) for one, part in zip(plan, parts, strict=True))
