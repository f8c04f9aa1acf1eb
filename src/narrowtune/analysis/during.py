"""Drift while a stage was taught, from readings that hold a step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from statistics import fmean

from narrowtune.analysis.measures import Measure
from narrowtune.analysis.replicates import Runs

Curve = list[tuple[int, float]]
"""Steps of the stage with what was read after them."""


def drift_during(runs: Runs, measure: Measure) -> Mapping[str, Mapping[str, Curve]]:
    """By stage and arm, a reading's value after each step it was read at.

    The mean over texts and replicates; the values as read, since the base was not read on the few
    rows that are used during training.
    """
    read: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    wanted = (measure.probe, measure.at, measure.part)
    for run in runs:
        for row in run.record.readings:
            step = row.get("step")
            if step is None or row.get("value") is None:
                continue
            if (row["probe"], row["at"], row["part"]) == wanted:
                read[row["stage"], row["arm"], step].append(row["value"])
    curves: dict[str, dict[str, Curve]] = defaultdict(lambda: defaultdict(list))
    for (stage, arm, step), values in sorted(read.items(), key=lambda item: item[0][2]):
        curves[stage][arm].append((step, fmean(values)))
    return curves
