"""Figures of drift: where and how far outputs moved, and what was lost with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from narrowtune.analysis.depth import StageDepth
from narrowtune.analysis.drift import DriftPoint, StageDrift
from narrowtune.analysis.during import Curve
from narrowtune.analysis.measures import MASS, Measure
from narrowtune.analysis.wording import signed
from narrowtune.report.figures import (
    Figure,
    arm_colour,
    arm_marker,
    legend_height,
    plain_layout,
)

UP = [[0, "var(--neutral)"], [1, "var(--loss)"]]
BOTH = [[0, "var(--loss)"], [0.5, "var(--neutral)"], [1, "var(--gain)"]]
UNITS = {"nats": "nats per token", "fraction": "fraction"}
MOST_TEXT = 9
"""Cells of wider tables hold no number; hovering tells it."""


def drift_map(drifts: Sequence[StageDrift], measure: Measure) -> Figure | None:
    """Arms by stages: how far each had drifted, darker for farther."""
    found = {(one.arm, one.stage): one.values.get(measure) for one in drifts}
    if all(value is None for value in found.values()):
        return None
    arms = list(dict.fromkeys(arm for arm, _ in found))
    stages = list(dict.fromkeys(stage for _, stage in found))
    grid = [[found.get((arm, stage)) for stage in stages] for arm in arms]
    hover = [
        [
            _said(f"<b>{arm}</b>, after {stage}<br>{measure.label}", found.get((arm, stage)))
            for stage in stages
        ]
        for arm in arms
    ]
    return _map(stages, arms, grid, hover, UP)


def mass_map(drifts: Sequence[StageDrift], limit: float) -> Figure:
    """One arm's answer classes by stages: probability gained or lost since base, in points."""
    stages = [one.stage for one in drifts]
    measures = list(dict.fromkeys(m for one in drifts for m in one.values if m.probe == MASS))
    grid = [[_points(one.values.get(measure)) for one in drifts] for measure in measures]
    names = [_class(measure) for measure in measures]
    hover = [
        [
            f"<b>{name}</b>, after {stage}<br>{_signed(value)} points"
            for stage, value in zip(stages, row, strict=True)
        ]
        for name, row in zip(names, grid, strict=True)
    ]
    figure = _map(stages, names, grid, hover, BOTH, "+.0f")
    figure["data"][0] |= {"zmin": -limit, "zmax": limit, "zmid": 0}
    return figure


def drift_against_loss(
    points: Sequence[DriftPoint], arms: Sequence[str], measure: Measure
) -> Figure | None:
    """Each model's drift against what it lost on held-out tasks, coloured by arm.

    Args:
        points: Models, or models on single tasks.
        arms: All arms of the report, so that each keeps its colour.
        measure: What drift is measured by.
    """
    traces = [
        _arm_points(index, arm, [point for point in points if point.arm == arm])
        for index, arm in enumerate(arms)
        if any(point.arm == arm for point in points)
    ]
    if not traces:
        return None
    layout = plain_layout(f"{measure.label} ({UNITS[measure.unit]})", "held-out loss (points)")
    layout["height"] += legend_height(traces)
    for axis in ("xaxis", "yaxis"):
        layout[axis] |= {"zeroline": True, "zerolinecolor": "var(--muted)", "zerolinewidth": 1}
    return {"data": traces, "layout": layout}


def depth_map(depths: Sequence[StageDepth], limit: float) -> Figure:
    """One arm's branches by layer: how far apart what they write lies from the base's."""
    rows = [(one, branch) for one in depths for branch in dict.fromkeys(b for b, _ in one.shifts)]
    layers = sorted({layer for one in depths for _, layer in one.shifts})
    grid = [[one.shifts.get((branch, layer)) for layer in layers] for one, branch in rows]
    hover = [[_depth_hover(one, branch, layer) for layer in layers] for one, branch in rows]
    names = [f"{one.stage} · {branch}" for one, branch in rows]
    figure = _map([str(layer) for layer in layers], names, grid, hover, UP)
    figure["data"][0] |= {"zmin": 0, "zmax": limit}
    return figure


def drift_curves(
    curves: Mapping[str, Curve], arms: Sequence[str], measure: Measure, title: str
) -> Figure:
    """A reading's course while one stage was taught, one line per arm; steps on a log scale.

    Args:
        curves: By arm, steps and values.
        arms: All arms of the report.
        measure: What was read.
        title: Of the axis of values.
    """
    traces = [
        {
            "type": "scatter", "mode": "lines+markers", "name": arm,
            "x": [step for step, _ in curves[arm]], "y": [value for _, value in curves[arm]],
            "hovertext": [f"<b>{arm}</b>, step {step}: {value:.3f}" for step, value in curves[arm]],
            "hoverinfo": "text", "line": {"color": arm_colour(index), "width": 2},
            "marker": arm_marker(index, 7),
        }
        for index, arm in enumerate(arms)
        if arm in curves
    ]  # fmt: skip
    layout = plain_layout("step", title)
    layout["height"] = 300 + legend_height(traces)
    layout["xaxis"] |= {"type": "log", "dtick": 1}
    layout["yaxis"] |= {"rangemode": "tozero"}
    return {"data": traces, "layout": layout}


def mass_limit(drifts: Sequence[StageDrift]) -> float:
    """Where the colours of masses saturate, in points: the largest change, at least 5."""
    masses = [v for one in drifts for m, v in one.values.items() if m.probe == MASS]
    return max([5.0, *(abs(100 * value) for value in masses)])


def _arm_points(index: int, arm: str, points: Sequence[DriftPoint]) -> Figure:
    many = len(points) > 60
    return {
        "type": "scatter", "mode": "markers", "name": arm,
        "x": [point.drift for point in points], "y": [100 * point.loss for point in points],
        "hovertext": [_point_hover(point) for point in points], "hoverinfo": "text",
        "marker": arm_marker(index, 6 if many else 9) | {"opacity": 0.55 if many else 0.9},
    }  # fmt: skip


def _point_hover(point: DriftPoint) -> str:
    where = f"<br>{point.task}" if point.task else ""
    return (
        f"<b>{point.arm}</b>, after {point.stage}{where}<br>drift {point.drift:.3f}"
        f"<br>loss {signed(point.loss)} points"
    )


def _depth_hover(one: StageDepth, branch: str, layer: int) -> str:
    shift, push = (found.get((branch, layer)) for found in (one.shifts, one.pushes))
    text = _said(f"<b>{branch}</b> of layer {layer}, after {one.stage}<br>shift", shift)
    return text if push is None else f"{text} logits<br>towards numbers {push:+.3f}"


def _map(
    columns: Sequence[str],
    rows: Sequence[str],
    grid: Sequence[Sequence[float | None]],
    hover: Sequence[Sequence[str]],
    colours: Sequence[Sequence[object]],
    form: str = ".2f",
) -> Figure:
    text = [["" if value is None else _typeset(f"{value:{form}}") for value in row] for row in grid]
    trace = {
        "type": "heatmap", "x": list(columns), "y": list(rows), "xgap": 2, "ygap": 2,
        "z": grid, "text": text, "hovertext": hover, "hoverinfo": "text",
        "texttemplate": "%{text}" if len(columns) <= MOST_TEXT else "", "textfont": {"size": 13},
        "showscale": False, "hoverongaps": False, "colorscale": colours, "zmin": 0,
    }  # fmt: skip
    layout = plain_layout("", "")
    layout |= {"height": 60 + 28 * len(rows), "margin": {"l": 8, "r": 4, "t": 32, "b": 4}}
    plain = {"showgrid": False, "showline": False, "type": "category"}
    layout["xaxis"] |= {"side": "top", **plain}
    layout["yaxis"] |= {"autorange": "reversed", **plain}
    return {"data": [trace], "layout": layout}


def _class(measure: Measure) -> str:
    return {"yes_no": "yes/no"}.get(measure.part, measure.part)


def _said(what: str, value: float | None) -> str:
    return what if value is None else f"{what} {value:.3f}"


def _points(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.1f}"


def _typeset(text: str) -> str:
    return "0" if text in ("+0", "-0") else text.replace("-", "\N{MINUS SIGN}")
