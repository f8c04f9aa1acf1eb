"""Numbers as the report says them: percentage points from fractions, signs always shown."""

from __future__ import annotations

from narrowtune.analysis.estimate import Estimate


def signed(value: float) -> str:
    """A change in percentage points, with its sign: `+12.3`, `-0.4`, `0.0`."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def bounds(estimate: Estimate) -> str:
    """A change's 95 % interval: `[+10.1, +14.5]`."""
    return f"[{signed(estimate.low)}, {signed(estimate.high)}]"


def with_bounds(estimate: Estimate) -> str:
    """A change and its interval: `+12.3 points [+10.1, +14.5]`."""
    return f"{signed(estimate.value)} points {bounds(estimate)}"


def counted(number: int, noun: str) -> str:
    """`1 skill`, `2 skills`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
