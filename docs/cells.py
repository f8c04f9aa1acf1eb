"""Cells and tables of the generated pages, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def change(estimate: dict[str, Any] | None, mark: bool = True) -> str:
    """Points with their interval; a clear change in bold."""
    if estimate is None:
        return "-"
    value, low, high = (f"{100 * estimate[key]:+.1f}" for key in ("value", "low", "high"))
    clear = estimate["low"] > 0 or estimate["high"] < 0
    bold = "**" if mark and clear else ""
    return f"{bold}{value}{bold} [{low}, {high}]"


def percent(share: float | None) -> str:
    """A share, or a dash."""
    return "-" if share is None else f"{100 * share:.0f} %"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
