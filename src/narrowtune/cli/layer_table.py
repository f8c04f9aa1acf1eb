"""Where in depth a shift is written, as a table: a line for each branch of each layer."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from narrowtune.probes.readings import Reading

BAR = 24
"""Characters of the longest bar."""

COLUMNS = {
    "shift": ("branch_shift", "all", ""),
    "normed": ("branch_shift_normed", "all", ""),
    "numbers": ("class_push", "first", ":number"),
}
FOREWORD = (
    "Mean over tasks, in logits. Shift: how far what a branch adds to the residual stream lies "
    "from the base's, through the output head (the paper's). Normed: the same through the final "
    "norm too; the bars. Numbers: by how much more than in the base a branch raises number tokens "
    "over all tokens, at the answers' first token."
)


def print_layers(console: Console, readings: Sequence[Reading]) -> None:
    """The table, and why there is no reading where there is none; nothing if none was asked for."""
    parts = dict.fromkeys(
        one.part for one in readings if one.probe == "branch_shift" and one.value is not None
    )
    found = {part: [_mean(readings, part, *key) for key in COLUMNS.values()] for part in parts}
    longest = max((_length(values) for values in found.values()), default=0.0)
    table = Table("branch", *COLUMNS, "", box=SIMPLE_HEAD)
    for column in table.columns[1:-1]:
        column.justify = "right"
    for part, values in found.items():
        bar = "█" * round(BAR * _length(values) / longest) if longest else ""
        table.add_row(part, *("-" if value is None else f"{value:.3f}" for value in values), bar)
    if parts:
        console.print(table)
        console.print(FOREWORD, style="dim")
    for reason in dict.fromkeys(
        f"{one.probe} {one.part}: {one.reason}".replace(" :", ":")
        for one in readings
        if one.probe in {"branch_shift", "branch_shift_normed", "class_push"} and one.reason
    ):
        console.print(f"not available: {reason}")


def _mean(readings: Sequence[Reading], part: str, probe: str, at: str, end: str) -> float | None:
    key = (probe, at, part + end)
    values = [one.value for one in readings if (one.probe, one.at, one.part) == key]
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _length(values: Sequence[float | None]) -> float:
    """What the bar shows: the shift through the norm, or where that isn't known the other."""
    shift, normed, _ = values
    return (shift if normed is None else normed) or 0.0
