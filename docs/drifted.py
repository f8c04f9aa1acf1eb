"""Tables of drift and of drift budgets, for the page of results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cells import change, table

Analysis = dict[str, Any]
LEVELS = ("models", "within tasks")


SHOWN = (("kl", "all", ""), ("mass", "first", "number"))


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """Of a model's drift, what the table below needs."""
    kept = [one for one in row["measures"] if (one["probe"], one["at"], one["part"]) in SHOWN]
    return {"arm": row["arm"], "stage": row["stage"], "measures": kept}


def correlations(analysis: Analysis) -> str:
    """How held-out loss goes with each measure of drift."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for one in analysis["drift"]["correlations"]:
        rows.setdefault(_label(one), {})[one["level"]] = one
    steps = ("steps",) if any("steps" in levels for levels in rows.values()) else ()
    levels = (*LEVELS, *steps)
    heads = ("drift by", *(f"Spearman, {level}" for level in levels), "Pearson, models")
    found = [
        (
            label,
            *(_coefficient(by_level.get(level), "spearman") for level in levels),
            _coefficient(by_level.get("models"), "pearson"),
        )
        for label, by_level in rows.items()
    ]
    return table(heads, found)


def drift(analysis: Analysis) -> str:
    """KL from the base and mass on numbers after each skill."""
    arms: dict[str, dict[str, dict[str, Any]]] = {}
    for row in analysis["drift"]["after_stages"]:
        arms.setdefault(row["arm"], {})[row["stage"]] = row
    skills = list(dict.fromkeys(skill for rows in arms.values() for skill in rows))
    rows = [
        (arm, *(_kl_and_numbers(stages.get(skill)) for skill in skills))
        for arm, stages in arms.items()
    ]
    return table(("arm", *(f"after {skill}" for skill in skills)), rows)


def budget(analysis: Analysis) -> str:
    """What every arm with a budget learned, kept and drifted, at the end of the sequence."""
    stages: dict[str, list[dict[str, Any]]] = {}
    for row in analysis["drift"]["budget"]:
        stages.setdefault(row["arm"], []).append(row)
    heads = (
        "arm", "action", "budget, nats", "drift at most, steering", "unseen", "within, of stages",
        "learning", "held-out, end", "held-out, worst",
    )  # fmt: skip
    rows = []
    for arm in analysis["arms"]:
        own = stages.get(arm["arm"], [])
        kept = f"{sum(one['kept'] == one['runs'] for one in own)} of {len(own)}" if own else "-"
        rows.append(
            (
                arm["arm"],
                own[0]["action"] if own else "none",
                f"{own[0]['budget']:g}" if own else "-",
                *(_most(own, part) for part in ("steering", "unseen")),
                kept,
                change(arm["learning"]),
                change(_held_out(arm, "held_out")),
                change(_held_out(arm, "held_out_worst")),
            )
        )
    return table(heads, rows)


def _held_out(arm: dict[str, Any], key: str) -> dict[str, Any] | None:
    found = arm[key]
    return found["mean"] if found else None


def _most(rows: list[dict[str, Any]], part: str) -> str:
    values = [row[part] for row in rows if row[part] is not None]
    return f"{max(values):.3f}" if values else "-"


def _label(one: dict[str, Any]) -> str:
    name = one["part"].replace("_", "/") if one["part"] else one["probe"].replace("_", " ")
    words = f"mass on {name}" if one["part"] else name
    how = {"change": ", change", "less than one": ", disagreement"}.get(one["taken"], "")
    return f"{words}{how}{', first token' if one['at'] == 'first' else ''}"


def _coefficient(one: dict[str, Any] | None, kind: str) -> str:
    found = one and one[kind]
    if not found:
        return "-"
    if found["low"] is None:
        return f"{found['value']:+.2f}"
    return f"{found['value']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]"


def _kl_and_numbers(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    values = {(m["probe"], m["at"], m["part"]): m["value"] for m in row["measures"]}
    kl, numbers = (values.get(key) for key in SHOWN)
    said = "-" if kl is None else f"{kl:.2f}"
    return said if numbers is None else f"{said} / {100 * numbers:+.0f}"


TABLES: dict[str, Callable[[Analysis], str]] = {
    "correlations": correlations,
    "drift": drift,
    "budget": budget,
}
