"""What a page's part on drift is given: tables, figures, and whether drift explains loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from narrowtune.analysis.budget import budget_by_stage
from narrowtune.analysis.correlation import Coefficient, Correlation, Level, correlations
from narrowtune.analysis.depth import StageDepth, depth_by_stage
from narrowtune.analysis.drift import Evidence, StageDrift, drift_by_stage
from narrowtune.analysis.during import drift_during
from narrowtune.analysis.measures import KL, MASS, NUMBER_BIAS, Measure
from narrowtune.analysis.replicates import Runs
from narrowtune.report.drift_figures import (
    depth_map,
    drift_against_loss,
    drift_curves,
    drift_map,
    mass_limit,
    mass_map,
)
from narrowtune.report.figures import Figure

DURING = (
    ("kl", KL, "KL (nats per token)"),
    ("bias", Measure(NUMBER_BIAS), "number bias"),
)
"""What may have been read while a stage was taught."""


def drift_values(runs: Runs, arms: Sequence[str]) -> dict[str, Any] | None:
    """All that the page's part on drift shows; None where nothing was read.

    Args:
        runs: One run, or all replicates.
        arms: The arms in the order of their colours.
    """
    drifts, depths, budget = drift_by_stage(runs), depth_by_stage(runs), budget_by_stage(runs)
    during = {name: drift_during(runs, measure) for name, measure, _ in DURING}
    if not (drifts or depths or budget or any(during.values())):
        return None
    found = correlations(runs)
    return {
        "stages": drifts,
        "limit": mass_limit(drifts),
        "correlations": _by_measure(found),
        "notes": any(one.reason for one in found),
        "steps": any(one.level == "steps" for one in found),
        "main": {one.level: one for one in found if one.measure == KL},
        "budget": budget,
        "depths": list(dict.fromkeys(one.arm for one in depths)),
        "normed": all(one.normed for one in depths),
        "masses": [arm for arm in arms if any(_masses(one) for one in drifts if one.arm == arm)],
        "during": {
            name: {stage: f"drift-{name}-{stage}" for stage in during[name]} for name in during
        },
        "figures": _figures(runs, arms, (drifts, depths)),
    }


def coefficient(found: Coefficient | None) -> str:
    """A correlation with its interval: `+0.93 [+0.86, +0.97]`."""
    if found is None:
        return "not available"
    if found.low is None or found.high is None:
        return _two_digits(found.value)
    return f"{_two_digits(found.value)} [{_two_digits(found.low)}, {_two_digits(found.high)}]"


def _two_digits(value: float) -> str:
    text = f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text


def _by_measure(found: Sequence[Correlation]) -> dict[Measure, dict[Level, Correlation]]:
    table: dict[Measure, dict[Level, Correlation]] = {}
    for one in found:
        table.setdefault(one.measure, {})[one.level] = one
    return table


def _figures(
    runs: Runs,
    arms: Sequence[str],
    measured: tuple[Sequence[StageDrift], Sequence[StageDepth]],
) -> dict[str, Figure]:
    (drifts, depths), evidence = measured, Evidence.of(runs)
    limit = mass_limit(drifts)
    found: dict[str, Figure | None] = {
        "drift-map": drift_map(drifts, KL),
        "drift-models": drift_against_loss(evidence.models(KL), arms, KL),
        "drift-tasks": drift_against_loss(evidence.points(KL), arms, KL),
    }
    for arm in arms:
        if own := [one for one in drifts if one.arm == arm and _masses(one)]:
            found[f"drift-mass-{arm}"] = mass_map(own, limit)
        if layers := [one for one in depths if one.arm == arm]:
            most = max(max(one.shifts.values()) for one in depths)
            found[f"drift-depth-{arm}"] = depth_map(layers, most)
    for name, measure, title in DURING:
        for stage, curves in drift_during(runs, measure).items():
            found[f"drift-{name}-{stage}"] = drift_curves(curves, arms, measure, title)
    return {name: figure for name, figure in found.items() if figure is not None}


def _masses(one: StageDrift) -> Mapping[Measure, float]:
    return {measure: value for measure, value in one.values.items() if measure.probe == MASS}
