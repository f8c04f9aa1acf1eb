"""Which changes each quantity is the mean of, as (task, before, after) steps of one record."""

from __future__ import annotations

from statistics import fmean

from narrowtune.analysis.matrix import (
    BASE_POINT,
    Step,
    contrasts_over,
    held_out_names,
    score_table,
    stage_names,
    target_names,
)
from narrowtune.analysis.samples import NO_SAMPLES, Point
from narrowtune.record import Record


def learning_steps(record: Record, arm: str) -> list[Step]:
    """Every target from base to right after its own stage."""
    return [(stage, BASE_POINT, (arm, stage)) for stage in target_names(record)]


def forgetting_steps(record: Record, arm: str) -> list[Step]:
    """Every target but the last from right after its own stage to the end."""
    last = stage_names(record)[-1]
    return [(stage, (arm, stage), (arm, last)) for stage in _earlier(record)]


def overall_steps(record: Record, arm: str) -> list[Step]:
    """Every target from base to the end."""
    last = stage_names(record)[-1]
    return [(stage, BASE_POINT, (arm, last)) for stage in target_names(record)]


def held_out_steps(record: Record, arm: str, stage: str, since: str | None = None) -> list[Step]:
    """Every held-out task from base, or from after the stage `since`, to after `stage`."""
    before = BASE_POINT if since is None else (arm, since)
    return [(task, before, (arm, stage)) for task in held_out_names(record)]


def from_best_steps(record: Record, arm: str) -> list[Step]:
    """Every target but the last from where it stood best before the end, to the end."""
    last = stage_names(record)[-1]
    return [(task, _best(record, arm, task), (arm, last)) for task in _earlier(record)]


def learned_more_steps(record: Record, arm: str, other: str) -> list[Step]:
    """Every target right after its own stage, from `other` to `arm`."""
    return [(stage, (other, stage), (arm, stage)) for stage in target_names(record)]


def kept_more_steps(record: Record, arm: str, other: str) -> list[Step]:
    """Every held-out task at the end, from `other` to `arm`."""
    end = stage_names(record)[-1]
    return [(task, (other, end), (arm, end)) for task in held_out_names(record)]


def worst_stage(record: Record, arm: str) -> str | None:
    """The stage after which the mean held-out change is lowest; None before any is scored whole."""
    means = {}
    for stage in stage_names(record):
        if found := contrasts_over(record, NO_SAMPLES, held_out_steps(record, arm, stage)):
            means[stage] = fmean(one.value for one in found)
    return min(means, key=lambda stage: means[stage], default=None)


def _earlier(record: Record) -> list[str]:
    """Targets after whose stage another one came."""
    last = stage_names(record)[-1]
    return [stage for stage in target_names(record) if stage != last]


def _best(record: Record, arm: str, task: str) -> Point:
    """The latest model before the end that answered the task best."""
    table = score_table(record)
    points = [BASE_POINT, *((arm, stage) for stage in stage_names(record)[:-1])]
    scored = {point: table[*point, task] for point in points if (*point, task) in table}
    if not scored:
        return BASE_POINT
    up = next(iter(scored.values())).higher_is_better
    return max(reversed(scored), key=lambda point: scored[point].value * (1 if up else -1))
