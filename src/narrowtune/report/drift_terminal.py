"""Drift in a terminal: how far each arm moved, whether that explains what was lost, the budget."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from narrowtune.analysis.budget import StageBudget, budget_by_stage
from narrowtune.analysis.correlation import Correlation, Level, correlations
from narrowtune.analysis.drift import StageDrift, drift_by_stage
from narrowtune.analysis.measures import BIAS, KL, NUMBERS, OWN_ANSWERS, TOP1, Measure
from narrowtune.analysis.replicates import Runs
from narrowtune.analysis.wording import signed
from narrowtune.report.drift import coefficient
from narrowtune.report.tables import plain_table

COLUMNS = (
    (KL, "KL"),
    (TOP1, "top-1"),
    (NUMBERS, "numbers"),
    (OWN_ANSWERS, "own answers"),
    (BIAS, "number bias"),
)
NOTE = (
    "KL(base || model) in nats per token; top-1: positions where the likeliest token is another, "
    "%; probability on number tokens and on the skill's own answers, and number bias: change from "
    "base, points. Held-out tasks' right answers, but number bias: the model's own texts."
)


def drift_tables(runs: Runs) -> Iterator[Table | Text]:
    """What there is to say of drift; nothing without readings."""
    if drifts := drift_by_stage(runs):
        yield _stages(drifts)
        yield Text(f"{NOTE}\n", style="dim")
    if found := correlations(runs, [measure for measure, _ in COLUMNS]):
        yield _correlations(found)
        yield from _reasons(found)
    if budget := budget_by_stage(runs):
        yield _budget(budget)


def _stages(drifts: tuple[StageDrift, ...]) -> Table:
    table = plain_table("Drift from the base", "arm")
    table.add_column("after", overflow="fold")
    read = [(m, name) for m, name in COLUMNS if any(m in one.values for one in drifts)]
    for _, name in read:
        table.add_column(name, justify="right")
    earlier = ""
    for one in drifts:
        cells = [_cell(one, measure) for measure, _ in read]
        table.add_row(Text("" if one.arm == earlier else one.arm), Text(one.stage), *cells)
        earlier = one.arm
    return table


def _cell(one: StageDrift, measure: Measure) -> str:
    value = one.values.get(measure)
    if value is None:
        return "-"
    if measure.unit == "nats":
        return f"{value:.3f}"
    return signed(value) if measure.taken == "change" else f"{100 * value:.1f}"


def _correlations(found: tuple[Correlation, ...]) -> Table:
    table = plain_table("Does drift explain held-out loss? Spearman's rank correlation", "drift by")
    table.add_column("models", justify="right")
    table.add_column("within tasks", justify="right")
    steps = any(one.level == "steps" for one in found)
    if steps:
        table.add_column("steps", justify="right")
    by_place = {(one.measure, one.level): one for one in found}
    for measure in dict.fromkeys(one.measure for one in found):
        levels: list[Level] = ["models", "within tasks", *(("steps",) if steps else ())]
        cells = [by_place.get((measure, level)) for level in levels]
        table.add_row(measure.label, *(coefficient(c.spearman) if c else "-" for c in cells))
    return table


def _reasons(found: tuple[Correlation, ...]) -> Iterator[Text]:
    for reason in dict.fromkeys(one.reason for one in found if one.reason):
        labels = dict.fromkeys(one.measure.label for one in found if one.reason == reason)
        yield Text(f"{', '.join(labels)}: {reason}.", style="dim")


def _budget(budget: tuple[StageBudget, ...]) -> Table:
    table = plain_table("Drift budget, nats per token", "arm")
    table.add_column("after", overflow="fold")
    table.add_column("action")
    for name in ("budget", "steering", "unseen"):
        table.add_column(name, justify="right")
    table.add_column("within")
    for one in budget:
        values = (_nats(one.steering), _nats(one.unseen))
        row = (Text(one.arm), Text(one.stage), one.action, f"{one.budget:g}", *values)
        table.add_row(*row, _within(one))
    return table


def _nats(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _within(one: StageBudget) -> Text:
    if one.runs == 0:
        return Text("not read", style="yellow")
    style = "green" if one.kept == one.runs else "red"
    if one.runs > 1:
        return Text(f"{one.kept} of {one.runs}", style=style)
    return Text("yes" if one.kept else "no", style=style)
