"""What a page's part on `explain` is given: the losses taken apart, and a figure of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from narrowtune.analysis.explaining import Explained
from narrowtune.analysis.wording import bounds, signed
from narrowtune.record import Record
from narrowtune.record.explanation import EXPLANATION_NAME, read_explanation
from narrowtune.report.explaining import ALL, Answers, Finding, detections, findings
from narrowtune.report.figures import Figure, legend_height, plain_layout

FIGURE = "explained"
BARS = ("offsets", "answer-space")
"""What a bar may stand for, the first that was tried; these need no prompt of their own."""


def explained_values(run: Path, record: Record) -> dict[str, Any] | None:
    """All that the page's part shows; None where `explain` was not asked of the run."""
    folder = run / "explain"
    if not (folder / EXPLANATION_NAME).is_file():
        return None
    explanation = read_explanation(folder)
    answers = Answers(folder, record, explanation)
    found = findings(answers)
    shown = next((way for way in BARS if any(one.found.correction == way for one in found)), None)
    bars = [one for one in found if one.found.correction == shown and one.task == ALL]
    figures = {FIGURE: loss_bars(bars)} if bars else {}
    return {
        "whole": _grouped([one for one in found if one.task == ALL], "stage"),
        "tasks": _grouped([one for one in found if one.task != ALL], "stage", "task"),
        "told": detections(answers),
        "about": explanation,
        "shown": shown,
        "figures": figures,
    }


def loss_bars(found: Sequence[Finding]) -> Figure:
    """One bar per model: what of its loss comes back, and what is left."""
    names = [f"{one.arm}, {'mean' if one.stage == ALL else one.stage}" for one in found]
    parts = (
        ("comes back", "var(--gain)", [one.found.recovered for one in found]),
        ("is left", "var(--loss)", [one.found.not_recovered for one in found]),
    )
    traces = [
        {
            "type": "bar", "orientation": "h", "name": name, "y": names,
            "x": [100 * one.value for one in values],
            "marker": {"color": colour},
            "hovertext": [f"{name} {signed(one.value)} points {bounds(one)}" for one in values],
            "hoverinfo": "text",
        }
        for name, colour, values in parts
    ]  # fmt: skip
    layout = plain_layout("points lost on held-out tasks", "")
    layout |= {"barmode": "relative", "height": 110 + 24 * len(found) + legend_height(parts)}
    layout["yaxis"] |= {"autorange": "reversed", "type": "category", "showgrid": False}
    return {"data": traces, "layout": layout}


def _grouped(found: Sequence[Finding], *keys: str) -> list[tuple[Finding, list[Explained]]]:
    """Findings of one model (and task) together, by correction."""
    groups: dict[tuple[str, ...], tuple[Finding, list[Explained]]] = {}
    for one in found:
        key = (one.arm, *(getattr(one, name) for name in keys))
        groups.setdefault(key, (one, []))[1].append(one.found)
    return list(groups.values())
