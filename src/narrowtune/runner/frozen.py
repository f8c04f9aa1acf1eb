"""What of a forward pass is kept for the backward pass, and what is not."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from itertools import takewhile

from torch import nn

from narrowtune.anatomy import Anatomy
from narrowtune.models.activation_checkpointing import checkpointable, checkpointed
from narrowtune.models.loading import without_gradient

_PASSED = ("vision", "audio", "connector")  # in the order that data passes them


def frozen_towers_without_gradient(
    model: nn.Module, anatomy: Anatomy, trained: Iterable[str]
) -> AbstractContextManager[None]:
    """Frozen towers between the pixels and the first trained tower save nothing for backward.

    Args:
        model: The model.
        anatomy: Its own.
        trained: The towers of which anything is trained.
    """
    towers = set(trained)
    frozen = list(takewhile(lambda tower: tower not in towers, _PASSED))
    prefixes = anatomy.tower_prefixes(*frozen) if frozen else ()
    return without_gradient(model, prefixes)


def layers_checkpointed(
    model: nn.Module, anatomy: Anatomy, trained: Iterable[str], asked: bool
) -> AbstractContextManager[None]:
    """Where asked, layers that a gradient passes keep their input alone.

    Args:
        model: The model, with all that the stage adds to it.
        anatomy: Its own.
        trained: The towers of which anything is trained.
        asked: Whether the stage is trained so.
    """
    return checkpointed(checkpointable(model, anatomy, trained) if asked else [])
