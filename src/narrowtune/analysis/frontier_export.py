"""A frontier as plain data, for `frontier --json` and for scripts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from narrowtune.analysis.families import Family, Frontier
from narrowtune.analysis.frontier_wording import sentences


def frontier_to_dict(found: Frontier) -> dict[str, Any]:
    """Every number of a frontier; learning, keeping and areas are fractions, drift is in nats.

    An end of an interval that is null is open.
    """
    return {
        "sentences": sentences(found),
        "levels": list(found.levels),
        "best": {"arm": found.best.arm, "learning": asdict(found.best.learning)},
        "runs": found.runs,
        "draws": found.draws,
        "families": [_family(one) for one in found.families],
        "gaps": [asdict(one) | {"clear": one.difference.clear} for one in found.gaps],
        "left_out": dict(found.left_out),
    }


def _family(family: Family) -> dict[str, Any]:
    values = asdict(family)
    return {"family": values.pop("name"), **values}
