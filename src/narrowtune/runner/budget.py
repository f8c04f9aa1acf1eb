"""An arm's drift budget at one stage: what keeps it, and what the record says of it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from narrowtune.delta import Line, kept, largest_share
from narrowtune.engine import Engine
from narrowtune.errors import RunFailed
from narrowtune.experiment import DriftSpec
from narrowtune.probes.anchor import anchors, halves
from narrowtune.probes.gauge import Drift, Gauge
from narrowtune.probes.looking import leaving_no_trace
from narrowtune.training import Gate, Guard, Looking, Measured, Penalty, StopAtBudget, Unguarded

DRIFT, DURING, CURVE = "drift", "drift_during", "drift_curve"
"""The probes of the record's rows: at a stage's end, on the way, and along its change."""

AIM = 0.75
"""Share of the budget that a penalty steers to: it reads few texts at a time, and holds drift
around its aim, not below."""

Trained = Sequence[tuple[str, nn.Parameter]]
Row = dict[str, Any]


class Unlimited:
    """No budget was asked for."""

    def __init__(self) -> None:
        self.guard: Guard = Unguarded()
        self.rows: list[Row] = []
        self.seconds = 0.0

    def end(self, model: nn.Module) -> list[str]:
        """Nothing to settle."""
        return []


@dataclass
class BudgetedStage:
    """Keeps one stage of an arm within its budget.

    Actions take a model to be within while the upper end of its drift's one-sided 95 % interval is,
    so that the budget also holds on texts that nothing is steered by.

    Args:
        spec: What was asked.
        gauge: Knows the base.
        trained: The trained parameters, as the stage begins.
        steps: Of the whole stage.
        engine: Processes, which must all decide the same.

    Attributes:
        guard: What watches while the stage is taught.
        rows: For the record, arm and stage left out.
        seconds: What reading the drift took.
    """

    spec: DriftSpec
    gauge: Gauge
    trained: Trained
    steps: int
    engine: Engine
    guard: Guard = field(init=False)
    seconds: float = field(init=False, default=0.0)
    _ends: list[Row] = field(init=False, default_factory=list)
    _looks: Looking = field(init=False)
    _start: dict[str, Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        gate = Gate(self._look, self.spec.every, self.steps)
        self.guard, self._looks = Unguarded(), Looking(gate)
        if self.spec.action == "stop":
            stopping = StopAtBudget(gate)
            self.guard, self._looks = stopping, stopping.looks
        elif self.spec.action == "penalise":
            penalty = self._penalty(gate)
            self.guard, self._looks = penalty, penalty.looks
        if self.spec.action in ("interpolate", "penalise"):
            self._start = kept(self.trained)

    @property
    def rows(self) -> list[Row]:
        """Readings so far: those of the steps, then those of the end."""
        during = [
            self._row(DURING, one.drift)
            | {"step": one.step}
            | ({} if one.weight is None else {"lambda": one.weight})
            for one in self._looks.seen
        ]
        return during + self._ends

    def end(self, model: nn.Module) -> list[str]:
        """Settle the weights that the stage ends with, and read their drift on both sets of texts.

        Returns:
            What the user should be told.
        """
        started = time.monotonic()
        facts = self._settle(model)
        unseen = self._judged(Drift.of(self.gauge.by_task(model, unseen=True)))
        readings = {"steering": self._measured(model), "unseen": unseen}
        self._ends += [
            self._row(DRIFT, found, part) | {"within": found.value <= self.spec.budget} | facts
            for part, found in readings.items()
        ]
        self.seconds = self._looks.seconds + time.monotonic() - started
        return [
            f"drift {found.value:.3g} nats on the {part} texts is beyond the budget of "
            f"{self.spec.budget:g} ({self.spec.measure}, {self.spec.action})"
            for part, found in readings.items()
            if found.value > self.spec.budget
        ]

    def _settle(self, model: nn.Module) -> Row:
        """Do what is done after the steps; facts for the rows of the end."""
        if isinstance(self.guard, StopAtBudget):
            return {"kept_step": self.guard.kept, "stopped": self.guard.ended}
        if isinstance(self.guard, Penalty):
            return {"lambda": self.guard.weight, "alpha": self._interpolate(model)}
        if self.spec.action == "interpolate":
            return {"alpha": self._interpolate(model)}
        return {}

    def _interpolate(self, model: nn.Module) -> float:
        line = Line(self._start, kept(self.trained))

        def fits(alpha: float) -> bool:
            line.put(self.trained, alpha)
            found = self._measured(model)
            self._ends.append(self._row(CURVE, found) | {"alpha": alpha})
            return found.within

        alpha = largest_share(fits)
        line.put(self.trained, alpha)
        return alpha

    def _look(self, model: nn.Module) -> Measured:
        with leaving_no_trace(model):
            try:
                return self._measured(model)
            except RunFailed:  # NaN is expected: the next loss will tell, if there is one
                return Measured(math.nan, 0, None, within=False)

    def _measured(self, model: nn.Module) -> Measured:
        """On the texts that steer; where a penalty pulls on half of them, on the other half."""
        texts = self.gauge.by_task(model)
        return self._judged(Drift.of({task: self._counted(texts[task]) for task in texts}))

    def _judged(self, found: Drift) -> Measured:
        within = self._agreed(found.at_most) <= self.spec.budget
        return Measured(found.value, found.n, found.stderr, within)

    def _counted(self, samples: Tensor) -> Tensor:
        pulls = self.spec.action == "penalise"
        return samples[list(halves(len(samples))[1])] if pulls else samples

    def _penalty(self, gate: Gate) -> Penalty:
        pulling, reading = anchors(self.gauge)

        def read(number: int, model: nn.Module) -> float:
            with torch.no_grad():
                return self._agreed(float(reading.drift(number, model)))

        return Penalty(gate, read, pulling.drift, AIM * self.spec.budget)

    def _agreed(self, value: float) -> float:
        """The mean over the processes: a last bit apart, two of them would part ways."""
        total = self.engine.sum(torch.tensor(value, dtype=torch.float64, device=self.engine.device))
        return float(total) / self.engine.processes

    def _row(self, probe: str, found: Measured, part: str = "steering") -> Row:
        number = math.isfinite(found.value)
        return {
            "probe": probe,
            "task": "",
            "at": "all",
            "measure": self.spec.measure,
            "part": part,
            "value": found.value if number else None,
            "unit": "nats",
            "n": found.n,
            "stderr": found.stderr,
            "reason": "" if number else "the model expects NaN",
            "budget": self.spec.budget,
            "action": self.spec.action,
            "accepted": found.within,
        }
