"""Keeping a budget while a stage is taught: ending it in time, or weighing a penalty."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from narrowtune.training.guard import GuardState
from narrowtune.training.weights import TrainedWeights


@dataclass(frozen=True)
class Measured:
    """Drift as it was read.

    Attributes:
        value: In nats; NaN where the model expected no numbers.
        n: Texts it was read on.
        stderr: Its standard error, None where there is none.
        within: Whether it will do.
    """

    value: float
    n: int
    stderr: float | None
    within: bool


@dataclass(frozen=True)
class Seen:
    """One look during a stage.

    Attributes:
        step: The step just done.
        drift: What was read.
        weight: Nats of loss per nat of drift at this step; None where nothing is penalised.
    """

    step: int
    drift: Measured
    weight: float | None = None


@dataclass(frozen=True)
class Gate:
    """When to look, and at what.

    Attributes:
        look: Reads the drift, and leaves no trace.
        every: Steps from one look to the next.
        steps: Of the whole stage; the last one is always looked at.
    """

    look: Callable[[nn.Module], Measured]
    every: int
    steps: int

    def is_due(self, step: int) -> bool:
        """Whether this step is looked at."""
        return step % self.every == 0 or step == self.steps


class Looking:
    """The looks of one stage, with the seconds they took."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.seen: list[Seen] = []
        self.seconds = 0.0

    def at(self, step: int, model: nn.Module, weight: float | None = None) -> Seen:
        """Look, and remember what was seen."""
        started = time.monotonic()
        self.seen.append(Seen(step, self.gate.look(model), weight))
        self.seconds += time.monotonic() - started
        return self.seen[-1]

    def facts(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"seen": [asdict(one) for one in self.seen], "seconds": self.seconds}

    def resume(self, facts: Any) -> None:
        """From a checkpoint."""
        self.seen = [
            Seen(one["step"], Measured(**one["drift"]), one["weight"]) for one in facts["seen"]
        ]
        self.seconds = facts["seconds"]


class StopAtBudget:
    """Ends a stage at the first look beyond the budget, with the weights of the last one within.

    Those lie on the CPU: the trained tensors alone.

    Attributes:
        kept: The step whose weights they are; 0 is the stage's beginning.
    """

    def __init__(self, gate: Gate) -> None:
        self.looks = Looking(gate)
        self.kept = 0
        self.ended = False
        self._good: dict[str, Tensor] = {}

    def begin(self, weights: TrainedWeights) -> None:
        """Keep where the stage starts."""
        self._keep(0, weights)

    def resume(self, state: GuardState) -> None:
        """Go on from a checkpoint."""
        self.kept, self.ended = state.facts["kept"], state.facts["ended"]
        self.looks.resume(state.facts["looks"])
        self._good = dict(state.tensors)

    def pull(self, number: int, model: nn.Module) -> Tensor | None:
        """Nothing: what is learned is as without a budget."""
        return None

    def after(self, step: int, model: nn.Module, weights: TrainedWeights) -> None:
        """Look if it is time; keep these weights, or go back to the kept ones and end."""
        if not self.looks.gate.is_due(step):
            return
        if self.looks.at(step, model).drift.within:
            self._keep(step, weights)
        else:
            weights.restore(self._good)
            self.ended = True

    def state(self) -> GuardState:
        """The kept weights, and what was seen."""
        facts = {"kept": self.kept, "ended": self.ended, "looks": self.looks.facts()}
        return GuardState(facts, self._good)

    def _keep(self, step: int, weights: TrainedWeights) -> None:
        self.kept = step
        self._good = {
            name: master.to("cpu", copy=True) for name, master in weights.tensors().items()
        }


SMOOTHING = 0.8
"""Share of the past in the smoothed drift: a memory of five steps."""

INTEGRAL, PROPORTIONAL = 0.2, 1.0
"""Nats of loss per budget of drift by which the penalty grows, at an excess of 1: for every step
that it lasts, and at once."""

MOST_EXCESS = 3.0
"""An excess is cut here: one wild batch must not decide a stage."""


class Penalty:
    """Adds drift to the loss, as heavily as the budget needs.

    Minimising the loss with drift at most at the aim is a saddle of loss + lambda (drift - aim).
    lambda climbs while drift is above the aim and falls, never below 0, while it is below: dual
    ascent, the method of multipliers (Hestenes 1969; Bertsekas 1982). Its proportional part, the
    quadratic term of the augmented Lagrangian, answers at once and damps the oscillation that the
    integral alone shows (PID Lagrangian methods, arXiv 2007.03964, section 4). Both work on drift
    in units of the aim, smoothed, since a step reads a few texts only.

    lambda must go by other texts than those the gradient comes from: these are learned like any
    training text, and drift on them says little about drift elsewhere.

    Args:
        gate: The looks, which are for the record and steer nothing.
        read: Drift on a few texts, by the step's number; lambda goes by it.
        pull: The same on a few others, with a gradient.
        aim: The drift that is steered to, in nats.
    """

    ended = False

    def __init__(
        self,
        gate: Gate,
        read: Callable[[int, nn.Module], float],
        pull: Callable[[int, nn.Module], Tensor],
        aim: float,
    ) -> None:
        self.looks = Looking(gate)
        self._read, self._pull = read, pull
        self._aim = aim
        self._smoothed: float | None = None
        self._multiplier = 0.0
        self._weight = 0.0

    @property
    def weight(self) -> float:
        """lambda: nats of loss per nat of drift."""
        return self._weight / self._aim

    def begin(self, weights: TrainedWeights) -> None:
        """lambda starts from 0 in every stage."""

    def resume(self, state: GuardState) -> None:
        """Go on from a checkpoint."""
        self._smoothed = state.facts["smoothed"]
        self._multiplier, self._weight = state.facts["multiplier"], state.facts["weight"]
        self.looks.resume(state.facts["looks"])

    def pull(self, number: int, model: nn.Module) -> Tensor | None:
        """lambda times drift; nothing while lambda is 0."""
        self._observe(self._read(number, model))
        return self.weight * self._pull(number, model) if self.weight > 0 else None

    def after(self, step: int, model: nn.Module, weights: TrainedWeights) -> None:
        """Look if it is time."""
        if self.looks.gate.is_due(step):
            self.looks.at(step, model, self.weight)

    def state(self) -> GuardState:
        """lambda and the smoothed drift, and what was seen."""
        return GuardState(
            {
                "smoothed": self._smoothed,
                "multiplier": self._multiplier,
                "weight": self._weight,
                "looks": self.looks.facts(),
            }
        )

    def _observe(self, value: float) -> None:
        before = value if self._smoothed is None else self._smoothed
        self._smoothed = SMOOTHING * before + (1 - SMOOTHING) * value
        excess = min(self._smoothed / self._aim - 1, MOST_EXCESS)
        self._multiplier = max(0.0, self._multiplier + INTEGRAL * excess)
        self._weight = max(0.0, self._multiplier + PROPORTIONAL * excess)
