"""Drift as one number: how far a model lies from the base on texts of many tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from narrowtune.probes.readings import sample_means
from narrowtune.probes.reference import Reference

Measure = Literal["kl", "reverse_kl"]


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

    def read(self, model: nn.Module) -> float:
        """The drift on the texts that steer."""
        return _mean(self.by_task(model))

    def check(self, model: nn.Module) -> float:
        """The drift on the texts that nothing was steered by."""
        return _mean(self.by_task(model, unseen=True))

    def by_task(self, model: nn.Module, unseen: bool = False) -> dict[str, Tensor]:
        """Each task's drift by sample: [samples], float64."""
        found = {}
        for reference in self.unseen if unseen else self.steering:
            distances, _ = reference.compare(model, ())
            column = getattr(distances, self.measure)
            found[reference.task] = sample_means(reference.positions, column, "all")
        return found


def _mean(tasks: Mapping[str, Tensor]) -> float:
    return sum(float(samples.mean()) for samples in tasks.values()) / len(tasks)
