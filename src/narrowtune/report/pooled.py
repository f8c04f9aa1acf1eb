"""What the page of a repeated experiment is given: every quantity over orders and seeds."""

from __future__ import annotations

from typing import Any

from narrowtune.analysis import (
    PooledArm,
    Recovery,
    Runs,
    form_shifts,
    held_out_average,
    held_out_names,
    pool_all,
    pooled_against_widest,
    pooled_headline,
    recoveries,
    stage_names,
)
from narrowtune.analysis.wording import counted
from narrowtune.record import BASE, Record
from narrowtune.report.base import quantised
from narrowtune.report.drift import drift_values
from narrowtune.report.figures import (
    Figure,
    arm_colour,
    held_out_through_stages,
    learning_against_held_out,
)
from narrowtune.report.frontier import frontier_values
from narrowtune.report.page import experiment_yaml


def pooled_values(record: Record, runs: Runs) -> dict[str, Any]:
    """All the template shows."""
    rows = pool_all(runs) if runs else ()
    drift = drift_values(runs, [row.arm for row in rows])
    frontier = frontier_values(runs)
    figures = _figures(rows, runs)
    for part in (drift, frontier):
        figures |= part["figures"] if part else {}
    return {
        "record": record,
        "headline": pooled_headline(record, runs),
        "model": record.experiment.model.id.rstrip("/").rpartition("/")[2],
        "facts": _facts(record, rows),
        "rows": rows,
        "most": max((row.runs for row in rows), default=0),
        "colours": {row.arm: arm_colour(index) for index, row in enumerate(rows)},
        "stages": stage_names(record),
        "held_out": held_out_names(record),
        "comparisons": pooled_against_widest(runs) if runs else (),
        "recovered": [(row.arm, one) for row in rows for one in recoveries(runs, row.arm)],
        "share": share_of,
        "forms": [(row.arm, one) for row in rows for one in form_shifts(runs, row.arm)],
        "drift": drift,
        "frontier": frontier,
        "figures": figures,
        "experiment": experiment_yaml(record),
        "version": record.environment.get("packages", {}).get("narrowtune", ""),
    }


def share_of(recovery: Recovery) -> str:
    """A recovered share in percent with its interval, ends beyond ten times left open."""
    low, high = (
        "open" if abs(end) > 10 else f"{100 * end:.0f}" for end in (recovery.low, recovery.high)
    )
    return f"{100 * recovery.share:.0f} % [{low}, {high}]"


def _facts(record: Record, rows: tuple[PooledArm, ...]) -> list[str]:
    replicates = record.experiment.replicates
    orders = len({one.order for one in replicates})
    return [
        counted(orders, "order"),
        counted(len(replicates) // orders, "seed"),
        f"{sum(row.status == 'complete' for row in record.replicates)} of "
        f"{counted(len(replicates), 'replicate')} complete",
        counted(len(rows), "arm"),
        *([f"base {told}"] if (told := quantised(record)) else []),
    ]


def _figures(rows: tuple[PooledArm, ...], runs: Runs) -> dict[str, Figure]:
    lines = [
        (row.arm, {change.stage: change.mean for change in row.after_stage})
        for row in rows
        if row.finished
    ]
    places = [str(place + 1) for place in range(len(stage_names(runs[0].record)))] if runs else []
    base = held_out_average(runs[0].record, BASE, BASE) if runs else None
    found = {
        "frontier": learning_against_held_out(rows),
        "through-stages": held_out_through_stages(places, lines, base) if lines else None,
    }
    return {name: figure for name, figure in found.items() if figure is not None}
