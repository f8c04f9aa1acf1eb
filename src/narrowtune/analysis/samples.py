"""Per-sample answers of a run, in memory: what makes two models comparable one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Point = tuple[str, str]
"""A model of the run: (arm, stage)."""


@dataclass(frozen=True)
class Sample:
    """One answer of one model; `contribution` where the task's value is no mean of scores.

    Samples that share an image or a passage have the same `cluster`; empty means a cluster of one.
    `explain` adds what the sample puts into the score of the same answers shuffled over the
    questions (`guess`, None where it was not recorded) and what the task's own metric reads in the
    answer to a yes-or-no question (`said`: yes, no or neither; empty where it was not recorded).
    """

    id: str
    prediction: str
    references: tuple[str, ...]
    score: float
    contribution: float | None = None
    cluster: str = ""
    guess: float | None = None
    said: str = ""

    @property
    def part(self) -> float:
        """What it puts into the task's value, which is the mean of these over the samples."""
        return self.score if self.contribution is None else self.contribution

    @property
    def above_guessing(self) -> float:
        """`part` less `guess`."""
        return self.part - (self.guess or 0.0)


@dataclass(frozen=True)
class Parts:
    """What the answers of one model put into a task's value, by sample id in test-file order.

    Attributes:
        values: Each sample's `part`.
        mean: Theirs.
        clusters: Of each sample; its own where it shares none.
    """

    values: Mapping[str, float]
    mean: float
    clusters: tuple[str, ...]


def own_clusters(clusters: Iterable[str]) -> tuple[str, ...]:
    """The clusters of samples in order, each one without any given one of its own."""
    return tuple(cluster or f"#{number}" for number, cluster in enumerate(clusters))


@dataclass(frozen=True)
class Samples:
    """Answers by (arm, stage, task), then by sample id in test-file order."""

    rows: Mapping[tuple[str, str, str], Mapping[str, Sample]] = field(default_factory=dict)
    _parts: dict[tuple[str, str, str], Parts] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def of(self, point: Point, task: str) -> Mapping[str, Sample] | None:
        """The answers of one model to one task, or None when they were not kept."""
        return self.rows.get((*point, task))

    def parts(self, point: Point, task: str) -> Parts | None:
        """What one model's answers to one task put into its value; None if they were not kept.

        Every change from or to a model asks for it: it is read off the answers once.
        """
        answers = self.of(point, task)
        if not answers:
            return None
        found = self._parts.get((*point, task))
        if found is None:
            values = {name: sample.part for name, sample in answers.items()}
            clusters = own_clusters(sample.cluster for sample in answers.values())
            found = Parts(values, sum(values.values()) / len(values), clusters)
            self._parts[*point, task] = found
        return found

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
