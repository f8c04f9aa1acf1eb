"""What the HTML report's template is given: values in reading order, numbers already in words."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML

from narrowtune.analysis import (
    ArmSummary,
    Cell,
    Matrix,
    PairedTest,
    Run,
    Samples,
    accuracy_matrix,
    against_widest,
    form_shifts,
    headline,
    held_out_average,
    held_out_names,
    paired_tests,
    stage_names,
    summarise,
)
from narrowtune.record import BASE, NOISE_FLOOR, Record
from narrowtune.report.base import quantised
from narrowtune.report.drift import drift_values
from narrowtune.report.examples import changed_answers
from narrowtune.report.figures import (
    Figure,
    arm_colour,
    colour_limit,
    heat_map,
    held_out_through_stages,
    learning_against_held_out,
    loss_curves,
)
from narrowtune.report.frontier import frontier_values


@dataclass(frozen=True)
class CostBar:
    """One arm's cost with bar lengths in percent of the dearest arm."""

    row: ArmSummary
    trained: float
    seconds: float
    peak: float


def page_values(record: Record, samples: Samples) -> dict[str, Any]:
    """All the template shows."""
    rows = summarise(record, samples)
    matrices = [accuracy_matrix(record, row.arm, samples) for row in rows]
    drift = drift_values([Run(record, samples)], [row.arm for row in rows])
    frontier = frontier_values([Run(record, samples)])
    figures = _figures(record, rows, matrices)
    for part in (drift, frontier):
        figures |= part["figures"] if part else {}
    return {
        "record": record,
        "headline": headline(record, samples),
        "model": record.experiment.model.id.rstrip("/").rpartition("/")[2],
        "facts": _facts(record, rows),
        "rows": rows,
        "colours": {row.arm: arm_colour(index) for index, row in enumerate(rows)},
        "stages": stage_names(record),
        "held_out": held_out_names(record),
        "matrices": [matrix for matrix in matrices if matrix.cells],
        "cells": _cells(matrices),
        "figures": figures,
        "limit": colour_limit(matrices),
        "comparisons": against_widest(record, rows, samples),
        "costs": _cost_bars(rows),
        "examples": changed_answers(record, samples),
        "forms": [
            (row.arm, one) for row in rows for one in form_shifts([Run(record, samples)], row.arm)
        ],
        "drift": drift,
        "frontier": frontier,
        "tests": _tests(record, rows, samples),
        "noise": [row for row in record.readings if row.get("probe") == NOISE_FLOOR],
        "losses": [stage for stage in stage_names(record) if f"loss-{stage}" in figures],
        "experiment": experiment_yaml(record),
        "plan": _yaml(record.plan) if record.plan else "",
        "version": record.environment.get("packages", {}).get("narrowtune", ""),
        "environment": {name: _plain(value) for name, value in record.environment.items()},
    }


def _figures(
    record: Record, rows: Sequence[ArmSummary], matrices: Sequence[Matrix]
) -> dict[str, Figure]:
    limit = colour_limit(matrices)
    lines = [(row.arm, {s: one.mean for s, one in row.held_out_by_stage.items()}) for row in rows]
    found: dict[str, Figure | None] = {
        "frontier": learning_against_held_out(rows),
        "through-stages": held_out_through_stages(
            stage_names(record), lines, held_out_average(record, BASE, BASE)
        ),
    }
    for matrix in matrices:
        found[f"matrix-{matrix.arm}"] = heat_map(matrix, limit) if matrix.cells else None
    for stage, figure in loss_curves(record, [row.arm for row in rows]).items():
        found[f"loss-{stage}"] = figure
    return {name: figure for name, figure in found.items() if figure is not None}


def _facts(record: Record, rows: Sequence[ArmSummary]) -> list[str]:
    held_out = len(held_out_names(record))
    model = record.experiment.model
    return [
        *([model.id] if "/" in model.id else []),
        *([f"base {told}"] if (told := quantised(record)) else []),
        f"{len(rows)} arm{'' if len(rows) == 1 else 's'}",
        "taught: " + ", then ".join(stage_names(record)),
        f"{held_out} held-out task{'' if held_out == 1 else 's'}",
        f"seed {record.experiment.seed}",
    ]


def _tests(
    record: Record, rows: Sequence[ArmSummary], samples: Samples
) -> list[tuple[str, PairedTest]]:
    end = stage_names(record)[-1]
    return [(row.arm, one) for row in rows for one in paired_tests(record, samples, (row.arm, end))]


def _cells(matrices: Sequence[Matrix]) -> list[tuple[str, Cell]]:
    """Every cell with its arm's name; base, which all arms share, only once."""
    cells: dict[tuple[str, str, str], tuple[str, Cell]] = {}
    for matrix in matrices:
        for cell in matrix.cells.values():
            arm = BASE if cell.stage == BASE else matrix.arm
            cells[arm, cell.stage, cell.task] = (arm, cell)
    return list(cells.values())


def _cost_bars(rows: Sequence[ArmSummary]) -> list[CostBar]:
    costs = [row.cost for row in rows if row.cost is not None]

    def part(value: float, values: list[float]) -> float:
        return 100 * value / (max(values) or 1)

    return [
        CostBar(
            row,
            part(row.cost.trained_numel, [cost.trained_numel for cost in costs]),
            part(row.cost.seconds, [cost.seconds for cost in costs]),
            part(row.cost.peak_bytes, [cost.peak_bytes for cost in costs]),
        )
        for row in rows
        if row.cost is not None
    ]


def experiment_yaml(record: Record) -> str:
    """The experiment with its defaults left out, but training in full: it decides results."""
    values = record.experiment.model_dump(mode="json", exclude_defaults=True)
    training = record.experiment.training.model_dump(mode="json", exclude_none=True)
    return _yaml(values | {"seed": record.experiment.seed, "training": training})


def _yaml(value: Any) -> str:
    text = io.StringIO()
    writer = YAML()
    writer.default_flow_style = False
    writer.indent(mapping=2, sequence=4, offset=2)
    writer.width = 100
    writer.dump(value, text)
    return text.getvalue()


def _plain(value: Any) -> str:
    return _yaml(value).strip() if isinstance(value, (dict, list)) else str(value)
