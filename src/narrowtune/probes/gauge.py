"""Drift as one number: how far a model lies from the base on texts of many tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from narrowtune.probes.readings import sample_means
from narrowtune.probes.reference import Reference

Measure = Literal["kl", "reverse_kl"]

ONE_SIDED = 1.645
"""Standard errors above a mean that the true one exceeds once in twenty times."""


@dataclass(frozen=True)
class Drift:
    """A model's drift, in nats: a mean over `n` samples of several tasks.

    `stderr` is its standard error; None where a task has a single sample.
    """

    value: float
    n: int
    stderr: float | None

    @property
    def at_most(self) -> float:
        """The upper end of a one-sided 95 % interval: what other texts of the tasks would show."""
        return self.value + ONE_SIDED * (self.stderr or 0.0)

    @classmethod
    def of(cls, tasks: Mapping[str, Tensor]) -> Drift:
        """Over each task's samples, every task weighing the same."""
        count = len(tasks)
        several = all(len(samples) > 1 for samples in tasks.values())
        squares = [float(samples.var() / len(samples)) for samples in tasks.values() if several]
        return cls(
            value=sum(float(samples.mean()) for samples in tasks.values()) / count,
            n=sum(len(samples) for samples in tasks.values()),
            stderr=math.sqrt(sum(squares)) / count if several else None,
        )


@dataclass
class Gauge:
    """Measures drift on texts that steer, and on others of the same tasks that only check.

    Drift is the mean over tasks of the mean over answers of the mean over an answer's tokens, its
    end included, of KL(base || model) or its reverse, nats per token.

    Attributes:
        steering: A task's texts each; whoever keeps a budget may look at these.
        unseen: Texts of the same tasks that show whether it was kept.
        measure: `kl` or `reverse_kl`.
    """

    steering: Sequence[Reference]
    unseen: Sequence[Reference]
    measure: Measure = "kl"
    _remembered: bool = field(default=False, init=False)

    def remember(self, base: nn.Module) -> None:
        """Read all texts with the base, once."""
        if not self._remembered:
            for reference in (*self.steering, *self.unseen):
                reference.remember(base)
            self._remembered = True

    def by_task(self, model: nn.Module, unseen: bool = False) -> dict[str, Tensor]:
        """Each task's drift by sample: [samples], float64."""
        found = {}
        for reference in self.unseen if unseen else self.steering:
            distances, _ = reference.compare(model, ())
            column = getattr(distances, self.measure)
            found[reference.task] = sample_means(reference.positions, column, "all")
        return found
