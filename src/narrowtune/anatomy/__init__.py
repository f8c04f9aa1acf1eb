"""What a model is made of, in words that mean the same on every architecture.

`Anatomy.of(model_or_config)` names every tensor; `anatomy.select(terms, keep=...)` is a
`Selection`, the value that says exactly which of them are trained. No torch is imported here.
"""

from narrowtune.anatomy.anatomy import Anatomy
from narrowtune.anatomy.recipes import RECIPES, Recipe
from narrowtune.anatomy.selection import SelectedTensor, Selection
from narrowtune.anatomy.tensors import TOWERS, Slice, TensorInfo

__all__ = [
    "RECIPES",
    "TOWERS",
    "Anatomy",
    "Recipe",
    "SelectedTensor",
    "Selection",
    "Slice",
    "TensorInfo",
]
