"""The accuracy matrix R[stage, task] and the primitive all changes are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from narrowtune.analysis.clusters import design_effect
from narrowtune.analysis.estimate import Contrast, Estimate, Moments, average_change, average_score
from narrowtune.analysis.samples import (
    NO_SAMPLES,
    Parts,
    Point,
    Sample,
    Samples,
    own_clusters,
)
from narrowtune.record import BASE, Record, Score

BASE_POINT: Point = (BASE, BASE)

Step = tuple[str, Point, Point]
"""A task, the model before and the model after."""

ScoreTable = Mapping[tuple[str, str, str], Score]


@dataclass(frozen=True)
class Cell:
    """One entry of the matrix: the score with its interval, and its change from base.

    `change` is oriented so that up is better, whatever the metric's direction.
    """

    stage: str
    task: str
    score: Score
    estimate: Estimate
    change: Estimate | None


@dataclass(frozen=True)
class Matrix:
    """R[stage, task] of one arm; the untouched base is its first row."""

    arm: str
    stages: tuple[str, ...]
    targets: tuple[str, ...]
    held_out: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Targets in the order they are taught, then held-out tasks."""
        return self.targets + self.held_out


def arm_names(record: Record) -> tuple[str, ...]:
    """The arms in the experiment's order."""
    return tuple(arm.name for arm in record.experiment.arms)


def stage_names(record: Record) -> tuple[str, ...]:
    """The stages in the order they are taught; each is also the name of its own target task."""
    return tuple(stage.name for stage in record.experiment.stages)


def target_names(record: Record) -> tuple[str, ...]:
    """The stages that have a test, in the order they are taught."""
    return tuple(stage.name for stage in record.experiment.stages if stage.test is not None)


def held_out_names(record: Record) -> tuple[str, ...]:
    """The held-out tasks in the experiment's order."""
    return tuple(task.name for task in record.experiment.held_out)


def score_table(record: Record) -> ScoreTable:
    """Scores by (arm, stage, task); the later row counts where a resumed run wrote two."""
    return _table(_Scores(record.scores))


class _Scores:
    """A record's scores, the same only as themselves: comparing them would take longer."""

    def __init__(self, rows: tuple[Score, ...]) -> None:
        self.rows = rows

    def __hash__(self) -> int:
        return id(self.rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Scores) and self.rows is other.rows


@lru_cache(maxsize=256)  # asked for by every change; a repeated run has a hundred records
def _table(scores: _Scores) -> ScoreTable:
    return {(score.arm, score.stage, score.task): score for score in scores.rows}


def contrast(
    table: ScoreTable, samples: Samples, task: str, before: Point, after: Point
) -> Contrast | None:
    """One task's change from `before` to `after`, up being better; None if a score is missing.

    None too where the two were judged by other versions of the task: they do not compare.

    It is paired when both models' answers to the same samples are at hand and agree with the
    scores in the record; stale or partial predictions are not used.
    """
    old, new = table.get((*before, task)), table.get((*after, task))
    if old is None or new is None or old.task_version != new.task_version:
        return None
    if not new.higher_is_better:
        old, new, before, after = new, old, after, before
    was, has = samples.parts(before, task), samples.parts(after, task)
    if was is not None and has is not None and _comparable((was, old), (has, new)):
        moved = {name: has.values[name] - part for name, part in was.values.items()}
        return replace(_contrast(task, moved, was.clusters), value=new.value - old.value)
    return Contrast(new.value - old.value, (Moments.of_score(new), Moments.of_score(old)), task)


def agreeing_pairs(
    record: Record, samples: Samples, task: str, point: Point
) -> Sequence[tuple[Sample, Sample]] | None:
    """A task's answers at base and at `point`; None where they don't add up to the scores."""
    table = score_table(record)
    old, new = table.get((*BASE_POINT, task)), table.get((*point, task))
    if old is None or new is None:
        return None
    return _agreeing(samples.paired(BASE_POINT, point, task), old, new)


def _comparable(*sides: tuple[Parts, Score]) -> bool:
    """Whether two models answered the same samples, and the answers add up to their scores."""
    (was, _), (has, _) = sides
    return was.values.keys() == has.values.keys() and all(
        _agrees(score, len(parts.values), parts.mean) for parts, score in sides
    )


def _agreeing(
    pairs: Sequence[tuple[Sample, Sample]] | None, old: Score, new: Score
) -> Sequence[tuple[Sample, Sample]] | None:
    if pairs is None or old.task_version != new.task_version:
        return None
    agree = (
        _agrees(score, len(pairs), sum(pair[side].part for pair in pairs) / len(pairs))
        for side, score in enumerate((old, new))
    )
    return pairs if all(agree) else None


def paired_contrast(
    task: str, pairs: Sequence[tuple[Sample, Sample]], of: Callable[[Sample], float]
) -> Contrast:
    """How the mean of something that each answer has moved, over the same samples."""
    differences = {a.id: of(b) - of(a) for a, b in pairs}
    return contrast_of(task, differences, [a.cluster for a, _ in pairs])


def contrast_of(task: str, differences: Mapping[str, float], clusters: Sequence[str]) -> Contrast:
    """The mean of paired differences by sample id, with the cluster of each; empty: its own."""
    return _contrast(task, dict(differences), own_clusters(clusters))


def _contrast(task: str, differences: Mapping[str, float], own: tuple[str, ...]) -> Contrast:
    values = list(differences.values())
    return Contrast(
        math.fsum(values) / len(values),
        (Moments.of(values),),
        task,
        design_effect(values, own),
        differences,
        own,
    )


def change_over(record: Record, samples: Samples, steps: Iterable[Step]) -> Estimate | None:
    """The mean change over (task, before, after) steps; None if there is none or one is missing."""
    return average_change(contrasts_over(record, samples, steps))


def contrasts_over(record: Record, samples: Samples, steps: Iterable[Step]) -> list[Contrast]:
    """The change of each step; empty if there is none or one is missing."""
    table = score_table(record)
    contrasts = [contrast(table, samples, *step) for step in steps]
    found = [one for one in contrasts if one is not None]
    return found if len(found) == len(contrasts) else []


def accuracy_matrix(record: Record, arm: str, samples: Samples = NO_SAMPLES) -> Matrix:
    """R[stage, task] of one arm, as far as it was measured."""
    table = score_table(record)
    targets, held_out = stage_names(record), held_out_names(record)
    cells = {}
    for stage in (BASE, *targets):
        point = BASE_POINT if stage == BASE else (arm, stage)
        for task in targets + held_out:
            score = table.get((*point, task))
            if score is not None:
                cells[stage, task] = _cell(table, samples, stage, score)
    stages = tuple(
        s for s in (BASE, *targets) if any((s, task) in cells for task in targets + held_out)
    )
    return Matrix(arm, stages, targets, held_out, cells)


def _cell(table: ScoreTable, samples: Samples, stage: str, score: Score) -> Cell:
    single = average_score([score])
    assert single is not None
    change = None
    if stage != BASE:
        step = contrast(table, samples, score.task, BASE_POINT, (score.arm, stage))
        change = average_change([step]) if step is not None else None
    return Cell(stage, score.task, score, single, change)


def _agrees(score: Score, n: int, mean: float) -> bool:
    return n == score.n and abs(mean - score.value) < 1e-6
