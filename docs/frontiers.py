"""Tables of the frontier, for the page of results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cells import change, table

Analysis = dict[str, Any]


def frontier(analysis: Analysis) -> str:
    """What each family keeps at matched learning, and learns at matched drift."""
    found = analysis["frontier"]
    levels = [f"kept at {100 * level:g} %" for level in found["levels"]]
    nats = [f"learned at {one['level']:.2g} nats" for one in found["families"][0]["learned_at"]]
    heads = ("family", "cells", *levels, "area", *nats)
    rows = [
        (
            one["family"],
            str(len(one["points"])),
            *map(_matched, one["kept_at"]),
            _area(one["area"]),
            *map(_matched, one["learned_at"]),
        )
        for one in found["families"]
    ]
    return table(heads, rows)


def cells(analysis: Analysis) -> str:
    """Every cell's learning, held-out change, drift and cost."""
    heads = ("cell", "learning", "held-out, end", "KL, nats", "training", "on its curve")
    rows = [
        (
            f"`{point['arm']}`",
            change(point["learning"]),
            change(point["kept"]),
            "-" if point["drift"] is None else f"{point['drift']:.3f}",
            f"{point['seconds']:.0f} s",
            "yes" if point["on_frontier"] else "no",
        )
        for family in analysis["frontier"]["families"]
        for point in family["points"]
    ]
    return table(heads, rows)


def gaps(analysis: Analysis) -> str:
    """Families against each other where both have learned the same; those asked for, or all."""
    found = [one for one in analysis["frontier"]["gaps"] if one["quantity"] == "kept"]
    if asked := [tuple(pair.split(":")) for pair in analysis["asked"]]:
        both = [*found, *map(_turned, found)]
        found = [one for pair in asked for one in both if (one["family"], one["other"]) == pair]
    rows = [
        (
            one["family"],
            one["other"],
            f"{100 * one['level']:g} %",
            f"**{_open(one['difference'])}**" if one["clear"] else _open(one["difference"]),
        )
        for one in found
    ]
    return table(("family", "against", "at", "kept more by"), rows)


def _turned(one: dict[str, Any]) -> dict[str, Any]:
    """The same difference seen from the other family."""
    value, low, high = (one["difference"][key] for key in ("value", "low", "high"))
    turned = {"value": _negative(value), "low": _negative(high), "high": _negative(low)}
    return one | {"family": one["other"], "other": one["family"], "difference": turned}


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def _matched(one: dict[str, Any]) -> str:
    if one["value"] is None:
        return "not reached"
    return f"{'≥ ' if one['at_least'] else ''}{_open(one['value'])}"


def _open(value: dict[str, Any]) -> str:
    """Points, an end of the interval that is open told as such."""
    if value["value"] is None:
        return "-"
    ends = (value[key] for key in ("low", "high"))
    low, high = ("open" if end is None else f"{100 * end:+.1f}" for end in ends)
    return f"{100 * value['value']:+.1f} [{low}, {high}]"


def _area(value: dict[str, Any] | None) -> str:
    if value is None:
        return "-"
    return f"{value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


TABLES: dict[str, Callable[[Analysis], str]] = {
    "frontier": frontier,
    "frontier-cells": cells,
    "frontier-pairs": gaps,
}
