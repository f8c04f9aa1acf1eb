"""Drift while a stage was taught, from readings that hold a step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from statistics import fmean

from narrowtune.analysis.drift import DriftPoint
from narrowtune.analysis.measures import OWN, Measure
from narrowtune.analysis.replicates import Runs

ANSWER_LOSS = "answer_loss"

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


def step_points(runs: Runs, measure: Measure) -> list[DriftPoint]:
    """Every model that was read while it was taught, with the loss on right answers at that step.

    Both are means over the held-out tasks whose texts were read. Nothing is scored between stages,
    so loss here is `answer_loss`, in nats. A change from base is left as the value that was read:
    the base's is the same for all steps, and moves no correlation. The answers of the stage's own
    skill are another class in every stage; of these there are no points.
    """
    if measure.part == OWN:
        return []
    found = []
    for number, run in enumerate(runs):
        read: dict[tuple[str, str, int], dict[tuple[str, str], float]] = defaultdict(dict)
        for row in run.record.readings:
            if row.get("step") is None or row.get("value") is None:
                continue
            kind = (row["probe"], row["at"], row["part"])
            if kind in ((measure.probe, measure.at, measure.part), (ANSWER_LOSS, "all", "")):
                key = (row["arm"], row["stage"], row["step"])
                read[key][row["probe"], row["task"]] = row["value"]
        found += [
            DriftPoint(number, arm, f"{stage} step {step}", "", *both)
            for (arm, stage, step), values in read.items()
            if (both := _drift_and_loss(values, measure)) is not None
        ]
    return found


def _drift_and_loss(
    values: Mapping[tuple[str, str], float], measure: Measure
) -> tuple[float, float] | None:
    drift = [value for (probe, _), value in values.items() if probe == measure.probe]
    loss = [value for (probe, _), value in values.items() if probe == ANSWER_LOSS]
    if not drift or not loss:
        return None
    taken = 1 - fmean(drift) if measure.taken == "less than one" else fmean(drift)
    return taken, fmean(loss)
