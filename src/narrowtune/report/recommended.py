"""A search as people read it: what to use, what became of every candidate, what is not known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from narrowtune.analysis.estimate import Estimate
from narrowtune.analysis.recommending import (
    Candidate,
    Recommendation,
    RungResult,
    recommendation,
)
from narrowtune.analysis.recommending_wording import unknown, verdict
from narrowtune.analysis.wording import bounds, signed
from narrowtune.record import RECORD_NAME, read_record, read_search
from narrowtune.report.predictions import read_samples
from narrowtune.report.tables import plain_table
from narrowtune.report.units import duration, memory


def read_recommendation(folder: Path) -> Recommendation:
    """What the search in a folder has shown.

    Raises:
        InputError: If there is no search, or its records are damaged.
    """
    search = read_search(folder)
    rungs = []
    for row in search.rungs:
        home = folder / row.name
        if (home / RECORD_NAME).exists():  # the last one may have been interrupted before
            record = read_record(home)
            rungs.append(RungResult(row, record, read_samples(home, record)))
    return recommendation(search, rungs)


def print_recommendation(found: Recommendation, console: Console) -> None:
    """Print the recommendation, the candidates and what is not known."""
    console.print(Text(verdict(found), style="bold"))
    console.print(_table(found))
    if gaps := unknown(found):
        console.print(Text("Not known:"))
        for gap in gaps:
            console.print(Text(f"- {gap}"))
    console.print(Text(spent(found), style="dim"))


def spent(found: Recommendation) -> str:
    """What was spent of the budget."""
    search = found.search
    text = f"Spent {duration(search.spent)} of {duration(search.seconds)}"
    peaks = [one.standing.peak_bytes for one in found.candidates if one.standing is not None]
    if peaks:
        limit = f" of {memory(search.memory)}" if search.memory is not None else ""
        text += f"; memory at the peak of teaching {memory(max(peaks))}{limit}"
    return f"{text}."


def recommendation_to_dict(found: Recommendation) -> dict[str, Any]:
    """The recommendation as plain data."""
    choice = found.choice
    return {
        "recommended": choice.best.arm if choice is not None and choice.usable else None,
        "arm": None
        if found.spec is None
        else found.spec.model_dump(mode="json", exclude_defaults=True, by_alias=True),
        "verdict": verdict(found),
        "unknown": unknown(found),
        "share_of_steps": None if found.rung is None else found.rung.steps,
        "steps": found.steps,
        "rivals": [] if choice is None else [one.other for one in choice.rivals],
        "candidates": [_row(one, found.search.allowed_loss) for one in found.candidates],
        "search": found.search.model_dump(mode="json"),
    }


def _row(one: Candidate, allowed_loss: float) -> dict[str, Any]:
    row: dict[str, Any] = {"name": one.name, "fate": one.fate, "why": one.why}
    row["rung"] = None if one.rung is None else one.rung.name
    if one.standing is not None:
        stood = one.standing
        row |= {
            "learning": _estimate(stood.learning),
            "held_out": _estimate(stood.kept),
            "room": stood.room(allowed_loss),
            "seconds": stood.seconds,
            "peak_bytes": stood.peak_bytes,
            "trained_numel": stood.trained_numel,
        }
    return row


def _estimate(one: Estimate) -> dict[str, float | int]:
    return {"value": one.value, "low": one.low, "high": one.high, "n": one.n}


def _table(found: Recommendation) -> Table:
    table = plain_table("Candidates, those that came furthest first", "arm")
    table.add_column("", overflow="fold")
    for name in ("steps", "learning", "held-out", "training"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for one in found.candidates:
        if one.fate == "not tried" and one.name in found.search.candidates:
            continue  # for want of time: told below
        table.add_row(*map(Text, _name(one)), *_cells(one))
    return table


def _name(one: Candidate) -> tuple[str, str]:
    """The arm, and what its cell varies: a learning rate by its value alone."""
    arm, _, cell = one.name.partition("@")
    return arm, cell.removeprefix("learning_rate=")


def _cells(one: Candidate) -> tuple[Text | str, ...]:
    share = "-" if one.rung is None else f"{one.rung.steps:.0%}"
    fate = Text(f"{one.fate}: {one.why}" if one.why else one.fate)
    stood = one.standing
    if stood is None:
        return share, "-", "-", "-", fate
    changes = (
        Text(f"{signed(value.value)}\n{bounds(value)}") for value in (stood.learning, stood.kept)
    )
    return share, *changes, duration(stood.seconds), fate
