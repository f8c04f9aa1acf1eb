"""Where in depth a shift of the output is written: each layer's branches, mean over texts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from narrowtune.analysis.measures import after_stages, taught_points
from narrowtune.analysis.replicates import Runs
from narrowtune.analysis.samples import Point

SHIFTS = ("branch_shift_normed", "branch_shift")
"""Through the final norm; where that was not to be had, without it, as arXiv 2510.08564 does."""

PUSH, NUMBERS = "class_push", "number"
Branch = tuple[str, int]
"""Its name and its layer."""


@dataclass(frozen=True)
class StageDepth:
    """What an arm's branches write otherwise than the base's after a stage, in logits.

    Attributes:
        arm: The arm.
        stage: The skill just taught.
        normed: Whether the final norm is in it.
        shifts: By branch (`attention`, `mlp`, ...) and layer: how far apart the logits lie.
        pushes: By branch and layer: how much more it raises number tokens over all tokens.
    """

    arm: str
    stage: str
    normed: bool
    shifts: Mapping[Branch, float]
    pushes: Mapping[Branch, float]


def depth_by_stage(runs: Runs) -> tuple[StageDepth, ...]:
    """Every arm after every skill whose layers were read, in the experiment's order."""
    rows, found = _rows(runs), []
    for arm, stage in taught_points(runs):
        probes = rows.get((arm, stage), {})
        shift = next((name for name in SHIFTS if name in probes), None)
        if shift is not None:
            values = probes[shift], probes.get(PUSH, {})
            found.append(StageDepth(arm, stage, shift == SHIFTS[0], *values))
    return tuple(found)


def _rows(runs: Runs) -> dict[Point, dict[str, dict[Branch, float]]]:
    """Means by model, probe, and branch and layer."""
    values: dict[tuple[Point, str, Branch], list[float]] = defaultdict(list)
    for run in runs:
        for row in after_stages(run.record):
            if row["probe"] in (*SHIFTS, PUSH) and row["at"] == "all" and row["value"] is not None:
                place, _, towards = row["part"].partition(":")
                branch, _, layer = place.rpartition(".")
                if layer.isdigit() and towards in ("", NUMBERS):
                    key = ((row["arm"], row["stage"]), row["probe"], (branch, int(layer)))
                    values[key].append(row["value"])
    found: dict[Point, dict[str, dict[Branch, float]]] = defaultdict(lambda: defaultdict(dict))
    for (point, probe, where), read in values.items():
        found[point][probe][where] = fmean(read)
    return found
