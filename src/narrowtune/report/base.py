"""What a reader must know of the model that a run started from."""

from __future__ import annotations

from narrowtune.record import Record


def quantised(record: Record) -> str:
    """What the base is quantised to, and how much of it; empty for a plain one."""
    row = record.plan.get("quantization")
    if not row:
        return ""
    share = row["numel"] / row["total_numel"]
    return f"quantised to {row['type']} ({share:.0%} of its numbers)"
