"""Per-sample answers of a run, in memory: what makes two models comparable one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Point = tuple[str, str]
"""A model of the run: (arm, stage)."""


@dataclass(frozen=True)
class Sample:
    """One answer of one model; `contribution` where the task's value is no mean of scores.

    Samples that share an image or a passage have the same `cluster`; empty means a cluster of one.
    """

    id: str
    prediction: str
    references: tuple[str, ...]
    score: float
    contribution: float | None = None
    cluster: str = ""

    @property
    def part(self) -> float:
        """What it puts into the task's value, which is the mean of these over the samples."""
        return self.score if self.contribution is None else self.contribution


@dataclass(frozen=True)
class Samples:
    """Answers by (arm, stage, task), then by sample id in test-file order."""

    rows: Mapping[tuple[str, str, str], Mapping[str, Sample]] = field(default_factory=dict)

    def of(self, point: Point, task: str) -> Mapping[str, Sample] | None:
        """The answers of one model to one task, or None when they were not kept."""
        return self.rows.get((*point, task))

    def paired(
        self, before: Point, after: Point, task: str
    ) -> tuple[tuple[Sample, Sample], ...] | None:
        """Answers of both models to the same samples; None unless the samples are the same."""
        old, new = self.of(before, task), self.of(after, task)
        if not old or not new or old.keys() != new.keys():
            return None
        return tuple((sample, new[name]) for name, sample in old.items())


NO_SAMPLES = Samples()
"""For records whose predictions are not at hand: every interval is then unpaired."""
