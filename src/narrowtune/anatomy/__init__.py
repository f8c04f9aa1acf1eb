"""What a model is made of, in words that mean the same on every architecture.

`Anatomy.of(model_or_config)` names every tensor; `anatomy.select(terms, keep=...)` is a
`Selection`, the value that says exactly which of them are trained. No torch is imported here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from narrowtune.anatomy.anatomy import Anatomy
from narrowtune.anatomy.recipes import RECIPES, Recipe
from narrowtune.anatomy.region import Region
from narrowtune.anatomy.selection import SelectedTensor, Selection
from narrowtune.anatomy.tensors import TOWERS, Slice, TensorInfo

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "RECIPES",
    "TOWERS",
    "Anatomy",
    "Recipe",
    "Region",
    "SelectedTensor",
    "Selection",
    "Slice",
    "TensorInfo",
    "release",
]


def release(model: nn.Module) -> None:
    """Undo `Selection.apply`: every parameter is whole again, with what was trained in it."""
    from narrowtune.anatomy.windows import release

    release(model)
