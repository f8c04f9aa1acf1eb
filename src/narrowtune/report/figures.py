"""The report's figures as plain plotly JSON: data, not drawings.

Colours are CSS variables (`var(--ink)`); the page's script puts in what the reader's light or dark
theme says, so every figure follows the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from narrowtune.analysis import (
    ArmSummary,
    Cell,
    Estimate,
    Matrix,
    PooledArm,
    stage_names,
)
from narrowtune.analysis.wording import bounds, signed
from narrowtune.record import BASE, LossRow, Record

Figure = dict[str, Any]
ArmLine = tuple[str, Mapping[str, Estimate]]

# Okabe and Ito's colours (in the style sheet) and a marker each: never told apart by hue alone. One
# marker less than there are colours, so that the ninth arm shares its colour, but not its marker.
COLOURS = 8
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
CLEAR = "rgba(0,0,0,0)"
MOST_POINTS = 1500
"""Loss curves with more steps are drawn as the means of equal runs of steps."""


def arm_colour(index: int) -> str:
    """The colour an arm keeps through the whole report."""
    return f"var(--arm-{index % COLOURS})"


def learning_against_held_out(rows: Sequence[ArmSummary | PooledArm]) -> Figure | None:
    """Each arm's target learning against its final held-out change, intervals both ways."""
    traces = [
        _arm_point(index, row.arm, row.learning, row.held_out.mean)
        for index, row in enumerate(rows)
        if row.finished and row.learning is not None and row.held_out is not None
    ]
    if not traces:
        return None
    found = from_the_base(traces)
    found["layout"]["height"] += legend_height(rows)
    return found


def from_the_base(traces: Sequence[Figure]) -> Figure:
    """Traces of learning against held-out change, with the base where neither has changed."""
    base = {
        "type": "scatter", "mode": "markers+text", "x": [0], "y": [0], "text": ["base"],
        "textposition": "top right", "textfont": {"color": "var(--muted)"}, "hoverinfo": "skip",
        "marker": {"color": "var(--muted)", "symbol": "circle-open", "size": 9},
        "showlegend": False,
    }  # fmt: skip
    layout = plain_layout("learning (points)", "held-out change (points)")
    for axis in ("xaxis", "yaxis"):
        layout[axis] |= {"zeroline": True, "zerolinecolor": "var(--muted)", "zerolinewidth": 1}
    return {"data": [base, *traces], "layout": layout}


def held_out_through_stages(
    stages: Sequence[str], lines: Sequence[ArmLine], base: Estimate | None
) -> Figure | None:
    """Held-out average after every stage, base first; bars are those of the change from base.

    Args:
        stages: Their names, from left to right.
        lines: For each arm its name and its change from base by stage.
        base: The untouched model's average.
    """
    if base is None:
        return None
    traces = [_arm_line(stages, lines, index, base) for index in range(len(lines))]
    layout = plain_layout("after stage", "held-out average (%)")
    layout["height"] += legend_height(lines)
    layout["xaxis"] |= {
        "tickvals": list(range(len(stages) + 1)),
        "ticktext": [BASE, *stages],
        "range": [-0.25, len(stages) + 0.25],
        "showgrid": False,
    }
    level = {
        "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 100 * base.value,
        "y1": 100 * base.value, "line": {"color": "var(--muted)", "width": 1, "dash": "dot"},
        "layer": "below",
    }  # fmt: skip
    layout["shapes"] = [level]
    return {"data": traces, "layout": layout}


def heat_map(matrix: Matrix, limit: float) -> Figure:
    """The accuracy matrix of one arm: score in the cell, colour by change from base."""
    stages, tasks = matrix.stages, matrix.tasks
    grid = [[matrix.cells.get((stage, task)) for stage in stages] for task in tasks]
    trace = {
        "type": "heatmap", "x": list(stages), "y": list(tasks), "xgap": 2, "ygap": 2,
        "z": [[_change_of(cell) for cell in row] for row in grid],
        "text": [[_cell_text(cell) for cell in row] for row in grid],
        "hovertext": [[_cell_hover(cell) for cell in row] for row in grid],
        "texttemplate": "%{text}", "textfont": {"size": 13}, "hoverinfo": "text",
        "showscale": False, "hoverongaps": False,
        "zmin": -limit, "zmax": limit, "zmid": 0,
        "colorscale": [[0, "var(--loss)"], [0.5, "var(--neutral)"], [1, "var(--gain)"]],
    }  # fmt: skip
    layout = plain_layout("", "")
    layout |= {
        "height": 60 + 32 * len(tasks),
        "shapes": _own_targets(matrix),
        "hovermode": "closest",
    }
    layout["margin"] = {"l": 8, "r": 4, "t": 32, "b": 4}
    layout["xaxis"] |= {"side": "top", "showgrid": False, "showline": False, "type": "category"}
    layout["yaxis"] |= {
        "autorange": "reversed",
        "showgrid": False,
        "showline": False,
        "type": "category",
    }
    return {"data": [trace], "layout": layout}


def colour_limit(matrices: Sequence[Matrix]) -> float:
    """Where the heat maps' colours saturate, in points: the largest held-out change, at least 5.

    Targets change by far more; on their scale every loss would look white.
    """
    cells = [
        cell
        for matrix in matrices
        for cell in matrix.cells.values()
        if not matrix.held_out or cell.task in matrix.held_out
    ]
    return max([5.0, *(abs(_change_of(cell) or 0.0) for cell in cells)])


def loss_curves(record: Record, arms: Sequence[str]) -> dict[str, Figure]:
    """Training loss by step, one figure per stage, one line per arm."""
    figures = {}
    for stage in stage_names(record):
        traces = []
        for index, arm in enumerate(arms):
            rows = [row for row in record.losses if (row.arm, row.stage) == (arm, stage)]
            traces += _loss_lines(index, arm, rows) if rows else []
        if traces:
            layout = plain_layout("step", "loss (nats per answer token)")
            layout["yaxis"] |= {"rangemode": "tozero"}
            layout["height"] = 300
            figures[stage] = {"data": traces, "layout": layout}
    return figures


def describe(estimate: Estimate) -> str:
    """A change for a hover box: value, interval, n and how the interval was made."""
    return (
        f"{signed(estimate.value)} points {bounds(estimate)}<br>"
        f"n = {estimate.n}, {estimate.pairing}"
    )


def _arm_point(index: int, arm: str, learned: Estimate, kept: Estimate) -> Figure:
    text = f"<b>{arm}</b><br>learning {describe(learned)}<br>held-out {describe(kept)}"
    return {
        "type": "scatter", "mode": "markers", "name": arm, "x": [100 * learned.value],
        "y": [100 * kept.value], "hovertext": [text], "hoverinfo": "text",
        "error_x": error_bars([learned], [learned.value], index),
        "error_y": error_bars([kept], [kept.value], index), "marker": arm_marker(index, 12),
    }  # fmt: skip


def _arm_line(
    stages: Sequence[str], lines: Sequence[ArmLine], index: int, base: Estimate
) -> Figure:
    arm, by_stage = lines[index]
    names = [stage for stage in stages if stage in by_stage]
    changes = [by_stage[stage] for stage in names]
    values = [base.value + change.value for change in changes]
    # Arms stand a little apart so that their bars can be read where they meet.
    apart = 0.04 * (index - (len(lines) - 1) / 2)
    places = [stages.index(stage) + 1 + apart for stage in names]
    hover = [
        f"<b>{arm}</b>, after {stage}<br>{100 * value:.1f} %<br>{describe(change)}"
        for stage, value, change in zip(names, values, changes, strict=True)
    ]
    start = f"<b>{BASE}</b><br>{100 * base.value:.1f} %, n = {base.n}"
    bars = error_bars(changes, [change.value for change in changes], index)
    return {
        "type": "scatter", "mode": "lines+markers", "name": arm, "x": [0, *places],
        "y": [100 * base.value, *(100 * value for value in values)], "hovertext": [start, *hover],
        "hoverinfo": "text", "line": {"color": arm_colour(index), "width": 2.5},
        "marker": arm_marker(index, 9),
        "error_y": bars | {"array": [0, *bars["array"]], "arrayminus": [0, *bars["arrayminus"]]},
    }  # fmt: skip


def error_bars(estimates: Sequence[Estimate], values: Sequence[float], index: int) -> Figure:
    """Intervals in points around values, in the colour of an arm."""
    pairs = list(zip(estimates, values, strict=True))
    return {
        "type": "data", "symmetric": False, "color": arm_colour(index), "thickness": 1.5,
        "width": 4, "array": [100 * (one.high - value) for one, value in pairs],
        "arrayminus": [100 * (value - one.low) for one, value in pairs],
    }  # fmt: skip


def arm_marker(index: int, size: int) -> Figure:
    """The colour and shape an arm keeps."""
    return {
        "color": arm_colour(index), "symbol": SYMBOLS[index % len(SYMBOLS)], "size": size,
        "line": {"color": "var(--paper)", "width": 1},
    }  # fmt: skip


def _change_of(cell: Cell | None) -> float | None:
    if cell is None:
        return None
    return 0.0 if cell.change is None else 100 * cell.change.value


def _cell_text(cell: Cell | None) -> str:
    if cell is None:
        return ""
    text = f"{100 * cell.score.value:.1f}"
    return f"<b>{text}</b>" if cell.change is not None and cell.change.clear else text


def _cell_hover(cell: Cell | None) -> str:
    if cell is None:
        return ""
    value, score = cell.estimate, cell.score
    place = BASE if cell.stage == BASE else f"after {cell.stage}"
    head = (
        f"<b>{cell.task}</b>, {place}<br>{score.metric} {100 * score.value:.1f} % "
        f"[{100 * value.low:.1f}, {100 * value.high:.1f}], n = {score.n}"
    )
    return head if cell.change is None else f"{head}<br>change {describe(cell.change)}"


def _own_targets(matrix: Matrix) -> list[Figure]:
    """A frame around each stage's own target, and a rule between targets and held-out tasks."""
    frames = [
        {"type": "rect", "x0": x - 0.5, "x1": x + 0.5, "y0": y - 0.5, "y1": y + 0.5,
         "line": {"color": "var(--ink)", "width": 1.5}}
        for x, stage in enumerate(matrix.stages)
        for y, task in enumerate(matrix.tasks)
        if stage == task
    ]  # fmt: skip
    edge = len(matrix.targets) - 0.5
    rule = {
        "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": edge, "y1": edge,
        "line": {"color": "var(--muted)", "width": 1},
    }  # fmt: skip
    return [*frames, rule] if matrix.held_out else frames


def _loss_lines(index: int, arm: str, rows: Sequence[LossRow]) -> list[Figure]:
    """The raw losses, faint, under their running mean over a twentieth of the stage."""
    size = -(-len(rows) // MOST_POINTS)
    runs = [rows[i : i + size] for i in range(0, len(rows), size)]
    steps = [run[-1].step for run in runs]
    raw = [sum(row.loss for row in run) / len(run) for run in runs]
    window = max(1, len(raw) // 20)
    smooth = [_mean(raw[max(0, i + 1 - window) : i + 1]) for i in range(len(raw))]
    hover = [
        f"<b>{arm}</b>, step {step}: {loss:.3f}" for step, loss in zip(steps, raw, strict=True)
    ]
    line = {"type": "scatter", "mode": "lines", "x": steps, "legendgroup": arm, "name": arm}
    colour = arm_colour(index)
    faint = {"y": raw, "hoverinfo": "skip", "showlegend": False, "opacity": 0.3}
    clear = {"y": smooth, "hovertext": hover, "hoverinfo": "text"}
    return [
        line | faint | {"line": {"color": colour, "width": 1}},
        line | clear | {"line": {"color": colour, "width": 2}},
    ]


def legend_height(rows: Sequence[Any]) -> int:
    """Room for the legend's lines, so that many arms do not squeeze the plot."""
    return 22 * max(0, len(rows) - 3)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def plain_layout(x_title: str, y_title: str) -> Figure:
    """Axes, fonts and colours that all figures share."""
    font: Mapping[str, Any] = {"family": "var(--sans)", "size": 13, "color": "var(--ink)"}
    axis = {
        "gridcolor": "var(--rule)", "linecolor": "var(--muted)", "zeroline": False,
        "automargin": True, "ticks": "", "fixedrange": False,
    }  # fmt: skip
    return {
        "font": font, "paper_bgcolor": CLEAR, "plot_bgcolor": CLEAR,
        "height": 380, "margin": {"l": 8, "r": 12, "t": 12, "b": 8}, "hovermode": "closest",
        "xaxis": axis | {"title": {"text": x_title, "standoff": 10, "font": {"size": 13}}},
        "yaxis": axis | {"title": {"text": y_title, "standoff": 10, "font": {"size": 13}}},
        "modebar": {"bgcolor": CLEAR, "color": "var(--muted)", "activecolor": "var(--ink)"},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "xanchor": "left"},
        "hoverlabel": {
            "bgcolor": "var(--paper)", "bordercolor": "var(--muted)", "align": "left",
            "font": {"family": "var(--sans)", "size": 13, "color": "var(--ink)"},
        },
    }  # fmt: skip
