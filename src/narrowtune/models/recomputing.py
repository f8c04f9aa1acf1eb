"""Elementwise results computed once more instead of kept for the backward pass.

Of a gated MLP, `act(gate) * up`, autograd keeps the gate, what the activation makes of it, and up;
where `down` is trained, the product as well. What the activation and the product make is read off
what is kept anyway by one pass over memory: by the same kernels from the same numbers, so no bit
changes. Whatever computes it counts: the graph tells, no model class needs a case of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_VIEWS = frozenset({"ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0"})
_SMALLEST = 4096  # numbers: below, looking takes longer than what it saves is worth


def _gelu(node: Any) -> Tensor:
    return F.gelu(node._saved_self, approximate=node._saved_approximate)


# By the operation that made a result: how it is made again of what that operation keeps.
_AGAIN: dict[str, Callable[[Any], Tensor]] = {
    "SiluBackward0": lambda node: F.silu(node._saved_self),
    "GeluBackward0": _gelu,
    "MulBackward0": lambda node: node._saved_self * node._saved_other,
}


@contextmanager
def recomputing_elementwise() -> Iterator[None]:
    """While the context lasts, graphs keep no result that they can compute again elementwise.

    Layers that activation checkpointing runs again keep theirs for a moment only, and as ever.
    """
    with torch.autograd.graph.saved_tensors_hooks(_pack, _unpack):
        yield


@dataclass(frozen=True)
class _Again:
    """A tensor as the operation that makes it; that one is alive as long as who reads it."""

    node: Any
    make: Callable[[Any], Tensor]
    shape: torch.Size


def _pack(tensor: Tensor) -> Tensor | _Again:
    node: Any = tensor.grad_fn
    if node is None or tensor.numel() < _SMALLEST or not tensor.is_contiguous():
        return tensor
    if node.name() in _VIEWS:
        ((node, _),) = node.next_functions
        if node is None:
            return tensor
    make = _AGAIN.get(node.name())
    # A factor is kept for the other's gradient: both are, where both have one.
    if make is None or any(source is None for source, _ in node.next_functions):
        return tensor
    return _Again(node, make, tensor.shape)


def _unpack(kept: Tensor | _Again) -> Tensor:
    if isinstance(kept, Tensor):
        return kept
    with torch.no_grad():
        return kept.make(kept.node).view(kept.shape)
