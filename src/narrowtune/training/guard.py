"""Who watches over a stage while it is taught: may add to its loss, and may end it early."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


class Guards:
    """Several guards over one stage, asked in order; any of them may end it."""

    def __init__(self, guards: Sequence[Guard]) -> None:
        self._guards = tuple(guards)

    @property
    def ended(self) -> bool:
        """Whether one of them has ended the stage."""
        return any(guard.ended for guard in self._guards)

    def begin(self, weights: TrainedWeights) -> None:
        """Tell all."""
        for guard in self._guards:
            guard.begin(weights)

    def resume(self, state: GuardState) -> None:
        """Give each its part of what `state` gave."""
        for number, guard in enumerate(self._guards):
            mark = f"{number}/"
            parts = (
                {key.removeprefix(mark): part[key] for key in part if key.startswith(mark)}
                for part in (state.facts, state.tensors)
            )
            guard.resume(GuardState(*parts))

    def pull(self, number: int, model: nn.Module) -> Tensor | None:
        """The sum of what they add; None where none adds anything."""
        found = [pull for guard in self._guards if (pull := guard.pull(number, model)) is not None]
        return sum(found[1:], found[0]) if found else None

    def after(self, step: int, model: nn.Module, weights: TrainedWeights) -> None:
        """Tell all."""
        for guard in self._guards:
            guard.after(step, model, weights)

    def state(self) -> GuardState:
        """What all of them need."""
        states = [guard.state() for guard in self._guards]
        return GuardState(
            {
                f"{at}/{key}": one
                for at, state in enumerate(states)
                for key, one in state.facts.items()
            },
            {
                f"{at}/{key}": one
                for at, state in enumerate(states)
                for key, one in state.tensors.items()
            },
        )
