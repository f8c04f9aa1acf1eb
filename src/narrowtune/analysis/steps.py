"""Which changes each quantity is the mean of, as (task, before, after) steps of one record."""

from __future__ import annotations

from narrowtune.analysis.matrix import BASE_POINT, Step, held_out_names, score_table, stage_names
from narrowtune.analysis.samples import Point
from narrowtune.record import Record


def learning_steps(record: Record, arm: str) -> list[Step]:
    """Every target from base to right after its own stage."""
    return [(stage, BASE_POINT, (arm, stage)) for stage in stage_names(record)]


def forgetting_steps(record: Record, arm: str) -> list[Step]:
    """Every target but the last from right after its own stage to the end."""
    *earlier, last = stage_names(record)
    return [(stage, (arm, stage), (arm, last)) for stage in earlier]


def overall_steps(record: Record, arm: str) -> list[Step]:
    """Every target from base to the end."""
    stages = stage_names(record)
    return [(stage, BASE_POINT, (arm, stages[-1])) for stage in stages]


def held_out_steps(record: Record, arm: str, stage: str, since: str | None = None) -> list[Step]:
    """Every held-out task from base, or from after the stage `since`, to after `stage`."""
    before = BASE_POINT if since is None else (arm, since)
    return [(task, before, (arm, stage)) for task in held_out_names(record)]


def from_best_steps(record: Record, arm: str) -> list[Step]:
    """Every target but the last from where it stood best before the end, to the end."""
    *earlier, last = stage_names(record)
    return [(task, _best(record, arm, task), (arm, last)) for task in earlier]


def worst_stage(record: Record, arm: str) -> str | None:
    """The stage after which the mean held-out change is lowest; None before any is scored whole."""
    means = {}
    for stage in stage_names(record):
        changes = [_change(record, step) for step in held_out_steps(record, arm, stage)]
        known = [change for change in changes if change is not None]
        if changes and len(known) == len(changes):
            means[stage] = sum(known) / len(known)
    return min(means, key=lambda stage: means[stage], default=None)


def _best(record: Record, arm: str, task: str) -> Point:
    """The latest model before the end that answered the task best."""
    table = score_table(record)
    points = [BASE_POINT, *((arm, stage) for stage in stage_names(record)[:-1])]
    scored = {point: table[*point, task] for point in points if (*point, task) in table}
    if not scored:
        return BASE_POINT
    up = next(iter(scored.values())).higher_is_better
    return max(reversed(scored), key=lambda point: scored[point].value * (1 if up else -1))


def _change(record: Record, step: Step) -> float | None:
    table, (task, before, after) = score_table(record), step
    old, new = table.get((*before, task)), table.get((*after, task))
    if old is None or new is None:
        return None
    return (new.value - old.value) * (1 if new.higher_is_better else -1)
