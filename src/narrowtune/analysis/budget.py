"""Whether drift stayed within the budget, on texts that steered it and on texts that did not."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from narrowtune.analysis.measures import after_stages, taught_points
from narrowtune.analysis.replicates import Runs
from narrowtune.analysis.samples import Point

DRIFT = "drift"
STEERING, UNSEEN = "steering", "unseen"


@dataclass(frozen=True)
class StageBudget:
    """One arm's drift after a stage against its budget, mean over replicates.

    Attributes:
        arm: The arm.
        stage: The skill just taught.
        action: What was done to keep the budget.
        budget: Nats per token.
        steering: Drift on the texts that steered the action; None if not read.
        unseen: Drift on texts that nothing was steered by; None if not read.
        kept: In how many replicates drift on unseen texts was within the budget.
        runs: Of how many.
    """

    arm: str
    stage: str
    action: str
    budget: float
    steering: float | None
    unseen: float | None
    kept: int
    runs: int


def budget_by_stage(runs: Runs) -> tuple[StageBudget, ...]:
    """Every arm after every skill that had a budget, in the experiment's order."""
    rows: dict[Point, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        for row in after_stages(run.record):
            if row["probe"] == DRIFT and row.get("budget") is not None:
                rows[row["arm"], row["stage"]].append(row)
    points = taught_points(runs)
    return tuple(_stage_budget(point, rows[point]) for point in points if point in rows)


def _stage_budget(point: Point, rows: list[dict[str, Any]]) -> StageBudget:
    values = {
        part: [row["value"] for row in rows if row["part"] == part and row.get("value") is not None]
        for part in (STEERING, UNSEEN)
    }
    first, (steering, unseen) = rows[0], (fmean(v) if v else None for v in values.values())
    return StageBudget(
        arm=point[0],
        stage=point[1],
        action=str(first.get("action", "report")),
        budget=float(first["budget"]),
        steering=steering,
        unseen=unseen,
        kept=sum(value <= first["budget"] for value in values[UNSEEN]),
        runs=len(values[UNSEEN]),
    )
