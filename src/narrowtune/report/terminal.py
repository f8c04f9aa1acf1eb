"""The report in a terminal: plain tables, readable at 80 columns and when piped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from narrowtune.analysis import (
    NO_SAMPLES,
    ArmSummary,
    Cell,
    Estimate,
    PooledArm,
    Run,
    Runs,
    Samples,
    accuracy_matrix,
    arm_names,
    headline,
    pool_all,
    pooled_headline,
    stage_names,
    summarise,
)
from narrowtune.analysis.wording import signed
from narrowtune.record import BASE, Record
from narrowtune.report.base import quantised
from narrowtune.report.drift_terminal import drift_tables
from narrowtune.report.predictions import read_runs, read_samples
from narrowtune.report.tables import plain_table
from narrowtune.report.units import count, duration, memory, share

COLOURS = {"better": "green", "worse": "red", "unclear": "default"}
LEGEND = (
    "Changes are percentage points from the untouched base, up is better, with 95 % intervals "
    "over test samples (not over seeds). Marked * where the interval does not hold 0."
)
POOLED_LEGEND = (
    "Changes are percentage points from the untouched base, means over replicates, up is better, "
    "with 95 % intervals over test samples and replicates. Marked * where the interval does not "
    "hold 0. Each replicate's own tables: narrowtune report DIR/order-N/seed-S."
)
STAGES_PER_TABLE = 3
"""As many score columns as fit 80 characters beside the task's name."""


def print_terminal(
    record: Record, console: Console, *, folder: Path | None = None, samples: Samples | None = None
) -> None:
    """Print headline, summary, cost and scores of a run.

    Predictions are read from the run's `folder` unless they are given; with neither, intervals
    are unpaired.
    """
    if record.replicates and folder is not None:
        print_pooled(record, read_runs(folder, record), console)
        return
    if samples is None:
        samples = read_samples(folder, record) if folder is not None else NO_SAMPLES
    rows = summarise(record, samples)
    if record.status != "complete":
        console.print(Text(f"Not complete: {record.status}. {record.error or ''}", style="red"))
    console.print(Text(headline(record, samples)))
    _tell_base(record, console)
    console.print(_quality(rows))
    console.print(_costs(rows))
    for arm in arm_names(record):
        for table in _matrices(record, arm, samples):
            console.print(table)
    for part in drift_tables([Run(record, samples)]):
        console.print(part)
    console.print(Text(LEGEND, style="dim"))


def print_pooled(record: Record, runs: Runs, console: Console) -> None:
    """Print headline, quantities and recovery over all replicates."""
    rows = pool_all(runs) if runs else ()
    if record.status != "complete":
        console.print(Text(f"Not complete: {record.status}. {record.error or ''}", style="red"))
    console.print(Text(pooled_headline(record, runs)))
    _tell_base(record, console)
    table = plain_table("Learned and kept, over replicates", "arm (replicates)")
    for name in ("learning", "held-out end", "held-out worst", "forgetting"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        kept, worst = row.held_out, row.held_out_worst
        means = (one.mean if one else None for one in (kept, worst))
        changes = (row.learning, *means, row.forgetting)
        table.add_row(Text(f"{row.arm} ({row.runs})"), *(_change(one) for one in changes))
    console.print(table)
    console.print(_after_skills(record, rows))
    for part in drift_tables(runs):
        console.print(part)
    console.print(Text(POOLED_LEGEND, style="dim"))


def _tell_base(record: Record, console: Console) -> None:
    if told := quantised(record):
        console.print(Text(f"The base is {told}: scores before training are that base's."))


def _after_skills(record: Record, rows: Sequence[PooledArm]) -> Table:
    table = plain_table("Held-out change after each skill", "arm")
    for stage in stage_names(record):
        table.add_column(Text(stage, overflow="fold"), justify="right")
    for row in rows:
        found = [row.after_skill.get(stage) for stage in stage_names(record)]
        table.add_row(Text(row.arm), *(_change(one.mean if one else None) for one in found))
    return table


def _quality(rows: Sequence[ArmSummary]) -> Table:
    table = plain_table("Learned and kept", "arm")
    for name in ("learning", "held-out end", "held-out worst", "forgetting"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        worst = row.held_out_worst
        table.add_row(
            Text(row.arm + ("" if row.finished else " (unfinished)")),
            _change(row.learning),
            _change(row.held_out.mean if row.held_out else None),
            _change(worst.mean if worst else None) + Text(f"\n{worst.stage}" if worst else ""),
            _change(row.forgetting),
        )
    return table


def _costs(rows: Sequence[ArmSummary]) -> Table:
    table = plain_table("Cost and proof of freezing", "arm")
    for name in ("trained", "of all", "training", "peak memory"):
        table.add_column(name, justify="right")
    table.add_column("ledger")
    for row in rows:
        table.add_row(Text(row.arm), *_cost_cells(row), _ledger(row))
    return table


def _cost_cells(row: ArmSummary) -> tuple[str, str, str, str]:
    cost = row.cost
    if cost is None:
        return ("-", "-", "-", "-")
    part = share(cost.trained_numel, cost.total_numel)
    return count(cost.trained_numel), part, duration(cost.seconds), memory(cost.peak_bytes)


def _ledger(row: ArmSummary) -> Text:
    if row.ledger is None:
        return Text("not checked", style="yellow")
    if row.ledger.held:
        return Text(f"held ({row.ledger.frozen})", style="green")
    return Text("CHANGED: " + ", ".join(row.ledger.changed), style="bold red")


def _matrices(record: Record, arm: str, samples: Samples) -> list[Table]:
    matrix = accuracy_matrix(record, arm, samples)
    taught = [stage for stage in matrix.stages if stage != BASE]
    chunks = [taught[i : i + STAGES_PER_TABLE] for i in range(0, len(taught), STAGES_PER_TABLE)]
    tables = []
    for chunk in chunks:
        table = plain_table(f"Scores of {arm}, % (change from base)", "task")
        for stage in (BASE, *chunk):
            title = BASE if stage == BASE else f"after {stage}"
            table.add_column(Text(title, overflow="fold"), justify="right")
        for task in matrix.tasks:
            cells = [_cell(matrix.cells.get((stage, task))) for stage in (BASE, *chunk)]
            table.add_row(Text(task), *cells, end_section=task == matrix.targets[-1])
        tables.append(table)
    return tables


def _cell(cell: Cell | None) -> Text:
    if cell is None:
        return Text("-")
    value = Text(f"{100 * cell.score.value:.1f}")
    if cell.change is None:
        return value
    mark = "*" if cell.change.clear else " "
    return value + Text(f" ({signed(cell.change.value)}){mark}", style=COLOURS[cell.change.verdict])


def _change(estimate: Estimate | None) -> Text:
    if estimate is None:
        return Text("-")
    mark = "*" if estimate.clear else " "
    text = f"{signed(estimate.value)}{mark}\n[{signed(estimate.low)}, {signed(estimate.high)}]"
    return Text(text, style=COLOURS[estimate.verdict])
