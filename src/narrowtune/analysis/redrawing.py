"""What every arm learned and kept, as it is and as resampling samples and runs moves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from narrowtune.analysis.estimate import Contrast
from narrowtune.analysis.matrix import contrasts_over, stage_names
from narrowtune.analysis.measures import KL, mean_taken, reading_table
from narrowtune.analysis.replicates import Run, Runs, Steps, at_end_steps
from narrowtune.analysis.resampling import DRAWS, Array, resampled
from narrowtune.analysis.steps import learning_steps

Changes = Sequence[Sequence[Mapping[str, Contrast]]]
"""By run, by arm, by task."""

Tasks = list[tuple[Array, Sequence[str]]]


@dataclass(frozen=True)
class Redrawn:
    """Three numbers of every arm: `[1 + draws, arms]`, the first row being what was measured.

    Attributes:
        arms: Their names.
        learned: Target learning, a fraction.
        kept: Held-out change at the end, a fraction.
        drift: KL to the base at the end, nats per token, mean over the held-out tasks; None unless
            it was read of every arm. Only runs are resampled for it, not the texts it was read on.
    """

    arms: tuple[str, ...]
    learned: Array
    kept: Array
    drift: Array | None

    @property
    def draws(self) -> int:
        """How many resamples there are; none where answers are not at hand."""
        return len(self.learned) - 1


def redrawn(runs: Runs, arms: Sequence[str], draws: int = DRAWS) -> Redrawn:
    """All arms on the same resamples, so that they compare pair by pair.

    Samples are drawn by clusters within each task and runs within their order, as
    `resampled_means` does it, the same for all arms.

    Args:
        runs: Runs in which every one of the arms was scored to the end.
        arms: Their names.
        draws: How many resamples.
    """
    learned, kept = (_changes(runs, arms, steps) for steps in (learning_steps, at_end_steps))
    drift = _drift(runs, arms)
    rows = [_measured(learned), _measured(kept), None if drift is None else drift.mean(axis=(0, 1))]
    moved: list[Array | None] = [None, None, None]
    if _same_samples(learned) and _same_samples(kept):
        moved = _resampled((_tasks(learned), _tasks(kept), drift), runs, draws)
    first, second, third = (
        None if row is None else np.vstack([row[None], *([more] if more is not None else [])])
        for row, more in zip(rows, moved, strict=True)
    )
    assert first is not None and second is not None
    return Redrawn(tuple(arms), first, second, third)


def _changes(runs: Runs, arms: Sequence[str], steps: Steps) -> Changes:
    return [[_by_task(run, arm, steps) for arm in arms] for run in runs]


def _by_task(run: Run, arm: str, steps: Steps) -> dict[str, Contrast]:
    found = contrasts_over(run.record, run.samples, steps(run.record, arm))
    return {one.task: one for one in found}


def _same_samples(changes: Changes) -> bool:
    """Whether all arms answered the same samples of each task in all runs, and all are at hand."""
    ids = {task: one.differences.keys() for task, one in changes[0][0].items()}
    return all(ids.values()) and all(
        one.differences.keys() == ids[task]
        for run in changes
        for arm in run
        for task, one in arm.items()
    )


def _measured(changes: Changes) -> Array:
    """The mean over tasks and runs of each arm: `[arms]`."""
    table = [[[one.value for one in arm.values()] for arm in run] for run in changes]
    found: Array = np.asarray(table, dtype=float).mean(axis=(0, 2))
    return found


def _tasks(changes: Changes) -> Tasks:
    """For each task `[samples, runs, arms]`: what each answer changed by; and its clusters."""
    found: Tasks = []
    for task, one in changes[0][0].items():
        ids = list(one.differences)
        values = [[[arm[task].differences[name] for name in ids] for arm in run] for run in changes]
        found.append((np.asarray(values, dtype=float).transpose(2, 0, 1), one.clusters))
    return found


def _resampled(
    measured: tuple[Tasks, Tasks, Array | None], runs: Runs, draws: int
) -> list[Array | None]:
    learned, kept, drift = measured
    # Drift as a task of one sample: the same runs are drawn for it, and nothing else.
    last: Tasks = [] if drift is None else [(drift, ("",))]
    moved = resampled([*learned, *kept, *last], [run.order for run in runs], draws)
    many = len(learned)
    return [
        np.mean(moved[:many], axis=0),
        np.mean(moved[many : many + len(kept)], axis=0),
        moved[-1] if last else None,
    ]


def _drift(runs: Runs, arms: Sequence[str]) -> Array | None:
    """`[1, runs, arms]`."""
    tables = [reading_table(run.record) for run in runs]
    ends = [stage_names(run.record)[-1] for run in runs]
    read = [
        [mean_taken(table, KL, (arm, end)) for arm in arms]
        for table, end in zip(tables, ends, strict=True)
    ]
    if any(value is None for row in read for value in row):
        return None
    return np.asarray([read], dtype=float)
