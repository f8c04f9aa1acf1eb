"""The texts that drift budgets are kept on, prepared with the plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from narrowtune.data.example import Example
from narrowtune.errors import InputError, Problems
from narrowtune.experiment import ArmSpec, DriftMeasure, DriftSpec, Experiment
from narrowtune.models.processing import Processing
from narrowtune.probes.gauge import Gauge
from narrowtune.probes.probing import Asked, prepare_probing
from narrowtune.probes.reference import Reference
from narrowtune.runner.drift import own_tasks
from narrowtune.runner.reading import DataReader

Gauges = Mapping[tuple[DriftMeasure, int], Gauge]
"""By measure and by how many rows of a task steer."""


def budget_of(experiment: Experiment, arm: ArmSpec) -> DriftSpec | None:
    """The arm's drift budget, the experiment's where it has none of its own."""
    return arm.drift or experiment.drift


def plan_gauges(
    experiment: Experiment, processing: Processing, reader: DataReader, batch_size: int
) -> Gauges:
    """What every drift budget of the experiment is measured with.

    Raises:
        InputError: There is nothing to measure on, too little of it, or it is too long.
    """
    asked = [budget_of(experiment, arm) for arm in experiment.arms]
    kinds = {(spec.measure, spec.limit) for spec in asked if spec is not None}
    if not kinds:
        return {}
    tested = own_tasks(experiment, reader)
    if not tested:
        raise InputError(
            "a drift budget is measured on held-out tasks of your own files, and there are none: "
            "add one to held_out, or take drift out"
        )
    gauges: dict[tuple[DriftMeasure, int], Gauge] = {}
    for limit in sorted({limit for _, limit in kinds}):
        parts = _halves(tested, limit)
        steering, unseen = (_references(part, processing, batch_size) for part in parts)
        gauges |= {
            (measure, size): Gauge(steering, unseen, measure)
            for measure, size in sorted(kinds)
            if size == limit
        }
    return gauges


def gauge_row(kind: tuple[DriftMeasure, int], gauge: Gauge) -> dict[str, Any]:
    """How many texts of each task steer, and how many check."""
    return {
        "measure": kind[0],
        "limit": kind[1],
        "steering": {one.task: len(one.encoded) for one in gauge.steering},
        "unseen": {one.task: len(one.encoded) for one in gauge.unseen},
    }


Rows = dict[str, Sequence[Example]]


def _halves(tested: Mapping[str, Sequence[Example]], limit: int) -> tuple[Rows, Rows]:
    """The first rows of each task, and the rows after them; where there are few, half and half.

    Halves rather than every other row: neighbours often share a picture.
    """
    problems, steering, unseen = Problems(), {}, {}
    for task, rows in tested.items():
        size = min(limit, len(rows) // 2)
        if not size:
            problems.add(
                [
                    f"task {task} has {len(rows)} row, and a drift budget needs two of each task: "
                    "one to steer by, another to check; give it more, or raise its limit"
                ]
            )
        steering[task], unseen[task] = rows[:size], rows[size : 2 * size]
    problems.check()
    return steering, unseen


def _references(
    texts: Mapping[str, Sequence[Example]], processing: Processing, batch_size: int
) -> Sequence[Reference]:
    asked = Asked(frozenset({"kl"}), texts, batch_size=batch_size)
    return prepare_probing(asked, processing).references
