"""How arms were taught where not by plain descent, in words."""

from __future__ import annotations

from collections.abc import Iterator

from narrowtune.analysis.wording import listed
from narrowtune.experiment import ArmSpec
from narrowtune.record import WISE_FT, Record


def taught_sentences(record: Record) -> list[str]:
    """The methods of each family of arms, and the shares that `wise-ft` picked; none without."""
    families: dict[str, ArmSpec] = {}
    for arm in record.experiment.arms:
        if arm.method.names:
            families.setdefault(arm.family, arm)
    if not families:
        return []
    told = [f"{name} by {listed([*map(str, arm.method.names)])}" for name, arm in families.items()]
    return [f"Not taught by plain descent alone: {'; '.join(told)}.", *_picked(record)]


def _picked(record: Record) -> Iterator[str]:
    """Of every arm whose share a validation set picked, what it picked."""
    rows = [row for row in record.readings if row.get("probe") == WISE_FT]
    tried = {row["arm"] for row in rows if row["part"] == "tried"}
    shares: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["part"] == "chosen" and row["arm"] in tried:
            shares.setdefault(row["arm"], {}).setdefault(row["stage"], []).append(row["value"])
    for arm, stages in shares.items():
        told = [f"{_range(values)} of {stage}" for stage, values in stages.items()]
        yield f"Of what {arm} had changed, wise-ft kept {listed(told)}."


def _range(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
