"""Which cells of sweeps diverged, in words."""

from __future__ import annotations

from narrowtune.analysis.wording import counted
from narrowtune.record import DivergedRow, Record


def diverged_arms(record: Record) -> dict[str, list[DivergedRow]]:
    """The cells that diverged, in the experiment's order, with where each did."""
    found = {
        arm.name: [row for row in record.diverged if row.arm == arm.name]
        for arm in record.experiment.arms
    }
    return {arm: rows for arm, rows in found.items() if rows}


def diverged_sentences(record: Record) -> list[str]:
    """Sentences that name them, and those given up for another reason; none where none was."""
    sentences = []
    for word, begins in (("Diverged", True), ("Given up", False)):
        told = [
            f"{arm} ({_where(record, rows)})"
            for arm, rows in diverged_arms(record).items()
            if rows[0].reason.startswith("loss") == begins
        ]
        sentences += [f"{word}: {'; '.join(told)}."] if told else []
    return sentences


def _where(record: Record, rows: list[DivergedRow]) -> str:
    if record.replicates:
        return f"in {len(rows)} of {counted(len(record.experiment.replicates), 'replicate')}"
    return f"while taught {rows[0].stage}, at step {rows[0].step}"
