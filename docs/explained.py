"""Tables of what `narrowtune explain RUN --json` printed, for the page of results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cells import change, table

Analysis = dict[str, Any]
CORRECTIONS = ("offsets", "answer-space", "instruction", "examples")


def explained(analysis: Analysis) -> str:
    """After each skill and over all: lost, and what each correction brings back and leaves."""
    return _by(analysis, "stage", lambda row: row["task"] == "all")


def explained_tasks(analysis: Analysis) -> str:
    """The same of each task, over all stages."""
    return _by(analysis, "task", lambda row: row["stage"] == "all" and row["task"] != "all")


def yes_no(analysis: Analysis) -> str:
    """d' and criterion of yes-or-no tasks, as they are and under two corrections."""
    heads = ("task", "model", "answered", "d'", "criterion", "yes", "neither")
    rows = [
        (
            one["task"],
            "base" if one["arm"] == "base" else f"{one['arm']} after {one['stage']}",
            one["correction"],
            _z(one["found"]["discrimination"]),
            _z(one["found"]["criterion"]),
            f"{100 * one['found']['said_yes']:.0f} %",
            f"{100 * one['found']['neither']:.0f} %",
        )
        for one in analysis["yes_no"]
        if one["correction"] in ("plain", "offsets")
    ]
    return table(heads, rows)


def _fair(analysis: Analysis) -> list[str]:
    """The corrections that do not harm the base, tasks together; the others prove nothing."""
    whole = [row for row in analysis["findings"] if row["task"] == "all"]
    return [
        way
        for way in CORRECTIONS
        if any(row["correction"] == way and not row["harms_base"] for row in whole)
    ]


def _by(analysis: Analysis, key: str, chosen: Callable[[dict[str, Any]], bool]) -> str:
    ways, shares = _fair(analysis), _shares(analysis)
    heads = ["arm", {"stage": "after", "task": "task"}[key], "lost"]
    for way in ways:
        heads += [f"{way}: back", "left", *shares]
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for row in filter(chosen, analysis["findings"]):
        rows.setdefault((row["arm"], row[key]), {})[row["correction"]] = row
    lines = []
    for (arm, name), by_way in rows.items():
        cells = [arm, name, change(next(iter(by_way.values()))["lost"])]
        for way in ways:
            cells += _cells(by_way[way], shares) if way in by_way else ["-"] * (2 + len(shares))
        lines.append(cells)
    return table(heads, lines)


def _shares(analysis: Analysis) -> dict[str, str | None]:
    """Further columns by their heads: where the shares are found; analyses of old have none."""
    found = analysis["findings"]
    columns: dict[str, str | None] = {}
    if any(row.get("share_interval") for row in found):
        columns["share"] = None
    if any(row.get("above") for row in found):
        columns["share above guessing"] = "above"
    return columns


def _cells(found: dict[str, Any], shares: dict[str, str | None]) -> list[str]:
    harmed = " †" if found["harms_base"] else ""
    cells = [change(found["recovered"]) + harmed, change(found["not_recovered"])]
    return cells + [_share(found if key is None else found[key]) for key in shares.values()]


def _share(found: dict[str, Any] | None) -> str:
    if not found or found["share"] is None:
        return "-"
    low, high = (f"{100 * end:.0f}" for end in found["share_interval"])
    return f"{100 * found['share']:.0f} % [{low}, {high}]"


def _z(reading: dict[str, float]) -> str:
    return f"{reading['value']:+.2f} [{reading['low']:+.2f}, {reading['high']:+.2f}]"


TABLES: dict[str, Callable[[Analysis], str]] = {
    "explained": explained,
    "explained-tasks": explained_tasks,
    "yes-no": yes_no,
}
