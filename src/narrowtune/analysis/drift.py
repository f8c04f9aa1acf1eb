"""How far each model's output distribution moved, and what the model lost on held-out tasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from narrowtune.analysis.matrix import BASE_POINT, contrast, held_out_names, score_table
from narrowtune.analysis.measures import (
    MEASURES,
    MOVED,
    Measure,
    ReadingTable,
    after_stages,
    mean_taken,
    reading_table,
    taken,
    taught_points,
)
from narrowtune.analysis.replicates import Runs
from narrowtune.analysis.samples import NO_SAMPLES, Point
from narrowtune.record import BASE, Record

MOST_MOVED = 5
"""So many tokens that moved most each way are told of a model."""


@dataclass(frozen=True)
class DriftPoint:
    """One model on one held-out task, or on all of them: its drift, and what it lost there.

    Attributes:
        run: Which replicate.
        arm: The arm.
        stage: The stage it was read and scored after, or its step where it was read meanwhile.
        task: The held-out task; empty for the mean over all.
        drift: In the measure's unit.
        loss: Score of the base less the model's, a fraction; at a step how much the loss on right
            answers has grown, in nats. Positive is lost.
    """

    run: int
    arm: str
    stage: str
    task: str
    drift: float
    loss: float


@dataclass(frozen=True)
class Evidence:
    """The readings and held-out losses of all replicates, looked up once.

    Attributes:
        readings: Of each replicate, by model.
        losses: Of each replicate, by arm, stage and held-out task.
        tasks: The held-out tasks.
    """

    readings: Sequence[ReadingTable]
    losses: Sequence[Mapping[tuple[str, str, str], float]]
    tasks: tuple[str, ...]

    @classmethod
    def of(cls, runs: Runs) -> Evidence:
        """What the records of these replicates hold."""
        records = [run.record for run in runs]
        tasks = held_out_names(records[0]) if records else ()
        return cls([reading_table(one) for one in records], [_losses(o) for o in records], tasks)

    def points(self, measure: Measure) -> list[DriftPoint]:
        """Every model on every held-out task that it was both read and scored on."""
        return [
            DriftPoint(run, arm, stage, task, drift, loss)
            for run, losses in enumerate(self.losses)
            for (arm, stage, task), loss in losses.items()
            if (drift := taken(self.readings[run], measure, (arm, stage), task)) is not None
        ]

    def models(self, measure: Measure) -> list[DriftPoint]:
        """Every model, drift and loss averaged over the same held-out tasks.

        Models that lack a task which others have are left out: their means would be of something
        else. What a model writes itself belongs to no task, and stands against the mean over all.
        """
        if measure.on_own_texts:
            return list(self._on_own_texts(measure))
        by_model: dict[tuple[int, str, str], list[DriftPoint]] = defaultdict(list)
        for point in self.points(measure):
            by_model[point.run, point.arm, point.stage].append(point)
        most = max(map(len, by_model.values()), default=0)
        return [
            DriftPoint(*model, "", fmean(p.drift for p in points), fmean(p.loss for p in points))
            for model, points in by_model.items()
            if len(points) == most
        ]

    def _on_own_texts(self, measure: Measure) -> Iterator[DriftPoint]:
        for run, losses in enumerate(self.losses):
            for arm, stage in dict.fromkeys((arm, stage) for arm, stage, _ in losses):
                drift = mean_taken(self.readings[run], measure, (arm, stage))
                lost = [losses.get((arm, stage, task)) for task in self.tasks]
                found = [loss for loss in lost if loss is not None]
                if drift is not None and len(found) == len(self.tasks):
                    yield DriftPoint(run, arm, stage, "", drift, fmean(found))


@dataclass(frozen=True)
class StageDrift:
    """How far an arm's output had moved after a stage, mean over texts and replicates.

    Attributes:
        arm: The arm.
        stage: The skill just taught, wherever in the order it stood.
        runs: Replicates it was read in.
        values: By measure, as far as it was read.
        gained: Tokens whose mean probability rose most, and by how much (see `moved_tokens`).
        lost: Tokens whose mean probability fell most.
    """

    arm: str
    stage: str
    runs: int
    values: Mapping[Measure, float]
    gained: tuple[tuple[str, float], ...] = ()
    lost: tuple[tuple[str, float], ...] = ()


def drift_by_stage(runs: Runs) -> tuple[StageDrift, ...]:
    """Every arm after every skill it was read after, in the experiment's order."""
    tables, tokens = [reading_table(run.record) for run in runs], moved_tokens(runs)
    points = taught_points(runs)
    found = (_stage_drift(tables, point, tokens.get(point, {})) for point in points)
    return tuple(one for one in found if one.values)


def moved_tokens(runs: Runs) -> dict[Point, dict[str, float]]:
    """By model, how the mean probability of tokens moved, over texts and replicates.

    Each task tells only the ten tokens that gained most and lost most there; where a token is not
    among them it counts as unmoved, so a mean is never too large.
    """
    sums: dict[Point, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    texts: dict[Point, set[tuple[int, str]]] = defaultdict(set)
    for number, run in enumerate(runs):
        for row in after_stages(run.record):
            if row["probe"] == "kl":
                texts[row["arm"], row["stage"]].add((number, row["task"]))
            elif row["probe"] == MOVED:
                sums[row["arm"], row["stage"]][row["part"]] += row["value"]
    return {
        point: {token: total / len(texts[point]) for token, total in moved.items()}
        for point, moved in sums.items()
        if texts[point]
    }


def _stage_drift(
    tables: Sequence[ReadingTable], point: Point, tokens: Mapping[str, float]
) -> StageDrift:
    values = {}
    for measure in MEASURES:
        means = [mean_taken(table, measure, point) for table in tables]
        if read := [mean for mean in means if mean is not None]:
            values[measure] = fmean(read)
    moved = sorted(tokens.items(), key=lambda item: item[1])
    return StageDrift(
        *point,
        sum(point in table for table in tables),
        values,
        tuple(item for item in reversed(moved) if item[1] > 0)[:MOST_MOVED],
        tuple(item for item in moved if item[1] < 0)[:MOST_MOVED],
    )


def _losses(record: Record) -> dict[tuple[str, str, str], float]:
    """By how much each model scores below the base on each held-out task."""
    table, tasks = score_table(record), set(held_out_names(record))
    found = {}
    for arm, stage, task in table:
        if arm != BASE and task in tasks:
            change = contrast(table, NO_SAMPLES, task, BASE_POINT, (arm, stage))
            if change is not None:
                found[arm, stage, task] = -change.value
    return found
