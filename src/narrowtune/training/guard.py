"""Who watches over a stage while it is taught: may add to its loss, and may end it early."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from narrowtune.training.weights import TrainedWeights


@dataclass(frozen=True)
class GuardState:
    """What a guard needs to go on after an interruption; lies in the stage's checkpoint."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


class Guard(Protocol):
    """Watches over one stage."""

    @property
    def ended(self) -> bool:
        """Whether no further step is to be taken."""

    def begin(self, weights: TrainedWeights) -> None:
        """Told of the weights that the stage starts from, before any checkpoint is loaded."""

    def resume(self, state: GuardState) -> None:
        """Go on from what `state` gave."""

    def pull(self, number: int, model: nn.Module) -> Tensor | None:
        """What step `number` (from 0) adds to its loss, in nats; None for nothing."""

    def after(self, step: int, model: nn.Module, weights: TrainedWeights) -> None:
        """Told of each finished step (from 1); may put the weights back."""

    def state(self) -> GuardState:
        """All that the steps to come depend on."""


class Unguarded:
    """Nobody watches."""

    ended = False

    def begin(self, weights: TrainedWeights) -> None:
        """Nothing to keep."""

    def resume(self, state: GuardState) -> None:
        """Nothing was kept."""

    def pull(self, number: int, model: nn.Module) -> Tensor | None:
        """Nothing."""
        return None

    def after(self, step: int, model: nn.Module, weights: TrainedWeights) -> None:
        """Go on."""

    def state(self) -> GuardState:
        """Empty."""
        return GuardState()
