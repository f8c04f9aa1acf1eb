"""Which frozen towers need no backward pass."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from itertools import takewhile

from torch import nn

from narrowtune.anatomy import Anatomy
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
