"""Answers that changed: the few flips per task that make a report concrete."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from narrowtune.analysis import (
    Flip,
    Flips,
    Samples,
    arm_names,
    flips,
    held_out_names,
    stage_names,
)
from narrowtune.record import Record

PER_KIND = 2
"""So many lost and so many gained answers are shown for each task."""


@dataclass(frozen=True)
class TaskExamples:
    """One task's changed answers: how many, and the first few."""

    held_out: bool
    flips: Flips
    shown: tuple[Flip, ...]


@dataclass(frozen=True)
class ArmExamples:
    """One arm's changed answers after its last scored stage, held-out tasks first."""

    arm: str
    stage: str
    tasks: tuple[TaskExamples, ...]

    @property
    def lost(self) -> int:
        """How many answers score less than base's."""
        return sum(len(task.flips.lost) for task in self.tasks)

    @property
    def gained(self) -> int:
        """How many answers score more than base's."""
        return sum(len(task.flips.gained) for task in self.tasks)


def changed_answers(record: Record, samples: Samples) -> tuple[ArmExamples, ...]:
    """For every arm, the answers that differ from base after its last scored stage.

    Lost ones are shown first on held-out tasks, gained ones on targets; in test-file order.
    """
    found = []
    for arm in arm_names(record):
        scored = {score.stage for score in record.scores if score.arm == arm}
        done = [stage for stage in stage_names(record) if stage in scored]
        tasks = tuple(_tasks(record, arm, done[-1], samples)) if done else ()
        if tasks:
            found.append(ArmExamples(arm, done[-1], tasks))
    return tuple(found)


def _tasks(record: Record, arm: str, stage: str, samples: Samples) -> Iterator[TaskExamples]:
    for task in (*held_out_names(record), *stage_names(record)):
        found = flips(record, arm, stage, task, samples)
        if found is None:
            continue
        held_out = task in held_out_names(record)
        kinds = (found.lost, found.gained) if held_out else (found.gained, found.lost)
        shown = tuple(flip for kind in kinds for flip in kind[:PER_KIND])
        if shown or found.reworded:
            yield TaskExamples(held_out, found, shown or found.reworded[:PER_KIND])
