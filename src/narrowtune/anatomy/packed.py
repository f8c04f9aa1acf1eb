"""Parameters that a module keeps packed, in few bits, under other names than the whole has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

ATTRIBUTE = "packs"
"""What a module that packs declares: of each whole tensor, the parameters it is packed into."""


class Packed(NamedTuple):
    """A whole tensor that nothing trains.

    Attributes:
        shape: Of the whole.
        pieces: The parameters that it is packed into.
    """

    shape: tuple[int, ...]
    pieces: tuple[str, ...]


def packed_parameters(model: torch.nn.Module) -> Mapping[str, Packed]:
    """Everything that a model keeps packed, by the name that the whole tensor would have."""
    found = {}
    module: Any
    for path, module in model.named_modules():
        for leaf, pieces in getattr(module, ATTRIBUTE, {}).items():
            named = tuple(f"{path}.{piece}" for piece in pieces)
            found[f"{path}.{leaf}"] = Packed(tuple(module.shape), named)
    return found
