"""A frontier as a page and a terminal show it: its figure, and numbers in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from narrowtune.analysis.families import Family, Frontier, FrontierPoint, Matched, Ranged
from narrowtune.analysis.frontier import LEVELS, frontier
from narrowtune.analysis.frontier_wording import sentences
from narrowtune.analysis.replicates import Run, Runs
from narrowtune.analysis.together import Part, together
from narrowtune.analysis.wording import signed
from narrowtune.errors import Problems
from narrowtune.record import Record, read_record
from narrowtune.report.figures import (
    Figure,
    arm_colour,
    arm_marker,
    describe,
    error_bars,
    from_the_base,
    legend_height,
)
from narrowtune.report.predictions import read_runs, read_samples

FIGURE = "sweep-frontier"


def read_together(folders: Sequence[Path]) -> tuple[Record, list[Run]]:
    """Runs from their folders, several of the same tasks as one.

    Raises:
        InputError: If a record or its answers are missing or damaged, or the runs don't compare.
    """
    parts, problems = [], Problems()
    for folder in folders:
        with problems.collect():
            record = read_record(folder)
            home = folder if folder.is_dir() else folder.parent
            runs = read_runs(home, record) if record.replicates else []
            runs = runs or [Run(record, read_samples(home, record))]
            parts.append(Part(str(folder), record, runs))
    problems.check()
    return together(parts)


def frontier_values(runs: Runs, levels: Sequence[float] = LEVELS) -> dict[str, Any] | None:
    """What a page's part on the frontier shows; None without a sweep, or with nothing to compare.

    Args:
        runs: One run, or all replicates.
        levels: Shares of the best learning.
    """
    found = swept_frontier(runs, levels)
    return None if found is None else shown(found)


def swept_frontier(runs: Runs, levels: Sequence[float] = LEVELS) -> Frontier | None:
    """The frontier of a run that sweeps something; None otherwise."""
    swept = any(arm.of for run in runs[:1] for arm in run.record.experiment.arms)
    return frontier(runs, levels) if swept else None


def shown(found: Frontier) -> dict[str, Any]:
    """A frontier for the template, with its figure."""
    return {
        "found": found,
        "sentences": sentences(found),
        "colours": {family.name: arm_colour(i) for i, family in enumerate(found.families)},
        "figures": {FIGURE: frontier_figure(found)},
        "drift": [one.level for one in found.families[0].learned_at],
        "priced": priced_level(found),
        "matched": matched,
        "plain": plain_range,
    }


def matched(one: Matched) -> tuple[str, str]:
    """A value at a level and its interval in points, as `≥ -1.2` and `[-2.0, open]`."""
    if one.value is None:
        return "not reached", ""
    bound = "≥ " if one.at_least else ""
    return bound + signed(one.value.value), _bounds(one.value, signed)


def plain_range(value: Ranged | None) -> tuple[str, str]:
    """An area and its interval: `0.93`, `[0.90, 0.95]`."""
    if value is None:
        return "–", ""
    return f"{value.value:.3f}", _bounds(value, lambda end: f"{end:.3f}")


def priced_level(found: Frontier) -> float:
    """The level whose price the table tells: the middle one."""
    return found.levels[len(found.levels) // 2]


def frontier_figure(found: Frontier) -> Figure:
    """Learning against held-out change, a colour and a marker for each family.

    Filled: on its family's curve, which is drawn. Hollow: beaten by another of its cells on both
    axes. Bars: 95 % intervals. Dotted: the levels at which families are compared.
    """
    traces = [one for i, family in enumerate(found.families) for one in _traces(i, family)]
    figure = from_the_base(traces)
    layout = figure["layout"]
    layout["height"] = 460 + legend_height(found.families)
    if found.best.learning.value > 0:
        at = [(level, 100 * level * found.best.learning.value) for level in found.levels]
        layout["shapes"] = [_level_line(x) for _, x in at]
        layout["annotations"] = [_level_name(level, x) for level, x in at]
    return figure


def _traces(index: int, family: Family) -> list[Figure]:
    on = sorted(
        (point for point in family.points if point.on_frontier),
        key=lambda point: point.learning.value,
    )
    beaten = [point for point in family.points if not point.on_frontier]
    marker = arm_marker(index, 10)
    hollow = marker | {
        "symbol": f"{marker['symbol']}-open", "line": {"color": arm_colour(index), "width": 1.5}
    }  # fmt: skip
    whole = {"mode": "lines+markers", "line": {"color": arm_colour(index), "width": 2}}
    curve = _points(index, family.name, on) | whole | {"marker": marker}
    if not beaten:
        return [curve]
    rest = {"mode": "markers", "marker": hollow, "showlegend": False, "opacity": 0.6}
    return [curve, _points(index, family.name, beaten) | rest]


def _points(index: int, family: str, points: Sequence[FrontierPoint]) -> Figure:
    learned, kept = ([getattr(p, side) for p in points] for side in ("learning", "kept"))
    return {
        "type": "scatter", "name": family, "legendgroup": family,
        "x": [100 * one.value for one in learned], "y": [100 * one.value for one in kept],
        "error_x": error_bars(learned, [one.value for one in learned], index),
        "error_y": error_bars(kept, [one.value for one in kept], index),
        "hoverinfo": "text",
        "hovertext": [
            f"<b>{p.arm}</b><br>learning {describe(p.learning)}<br>held-out {describe(p.kept)}"
            for p in points
        ],
    }  # fmt: skip


def _level_line(x: float) -> Figure:
    return {
        "type": "line", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1, "layer": "below",
        "line": {"color": "var(--muted)", "width": 1, "dash": "dot"},
    }  # fmt: skip


def _level_name(level: float, x: float) -> Figure:
    return {
        "x": x, "y": 0, "yref": "paper", "yanchor": "bottom", "xanchor": "right", "textangle": -90,
        "text": f"{100 * level:g} %", "showarrow": False,
        "font": {"size": 11, "color": "var(--muted)"},
    }  # fmt: skip


def _bounds(value: Ranged, said: Any) -> str:
    low, high = ("open" if end is None else said(end) for end in (value.low, value.high))
    return f"[{low}, {high}]"
