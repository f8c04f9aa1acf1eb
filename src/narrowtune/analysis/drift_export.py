"""Drift as plain data, for `report --json` and for scripts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from narrowtune.analysis.budget import budget_by_stage
from narrowtune.analysis.correlation import Correlation, correlations
from narrowtune.analysis.depth import StageDepth, depth_by_stage
from narrowtune.analysis.drift import StageDrift, drift_by_stage
from narrowtune.analysis.replicates import Runs


def drift_to_dict(runs: Runs) -> dict[str, Any] | None:
    """What the readings say after stages, and whether drift explains loss; None without any.

    Readings themselves, those during training included, are in the record.
    """
    found = {
        "after_stages": [_stage(one) for one in drift_by_stage(runs)],
        "correlations": [_correlation(one) for one in correlations(runs)],
        "layers": [_layers(one) for one in depth_by_stage(runs)],
        "budget": [asdict(one) for one in budget_by_stage(runs)],
    }
    return found if any(found.values()) else None


def _stage(one: StageDrift) -> dict[str, Any]:
    return {
        "arm": one.arm,
        "stage": one.stage,
        "runs": one.runs,
        "measures": [
            asdict(measure) | {"unit": measure.unit, "value": value}
            for measure, value in one.values.items()
        ],
        "gained": [{"token": token, "change": change} for token, change in one.gained],
        "lost": [{"token": token, "change": change} for token, change in one.lost],
    }


def _correlation(one: Correlation) -> dict[str, Any]:
    values = asdict(one)
    return {**values.pop("measure"), **values}


def _layers(one: StageDepth) -> dict[str, Any]:
    return {
        "arm": one.arm,
        "stage": one.stage,
        "normed": one.normed,
        "branches": [
            {"branch": name, "layer": layer, "shift": shift, "push": one.pushes.get((name, layer))}
            for (name, layer), shift in one.shifts.items()
        ],
    }
