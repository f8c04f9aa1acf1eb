"""How many candidates are taught how long: successive halving within a budget of seconds.

Every rung teaches about a third of the candidates of the one before about three times as long
(Jamieson & Talwalkar 2016, arXiv 1502.07943, section 3; eta as in Hyperband, arXiv 1603.06560).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil

from narrowtune.record import Planned

ETA = 3
LENGTHS = (1.0, 0.5, 0.25, 0.125)
"""Shares of the whole training that the last rung may have: less only where time is short."""

WORTH = 6
"""Fewer candidates than this and the last rung is shortened first."""

LEAST = 2
"""Of one candidate nothing is chosen."""


@dataclass(frozen=True)
class Prices:
    """Seconds that a candidate takes, predicted, were it taught and scored in full.

    Attributes:
        fixed: Whatever its length.
        teaching: All steps of all stages.
        scoring: All test samples after all stages.
        base: Scoring the base once.
        scored: Share of the samples that are scored at a share of the tests: small tasks keep all.
    """

    fixed: float
    teaching: float
    scoring: float
    base: float
    scored: Callable[[float], float] = float

    def of(self, rung: Planned) -> float:
        """Of one candidate in a rung."""
        return self.fixed + rung.steps * self.teaching + self.scored(rung.tests) * self.scoring

    def whole(self, rung: Planned) -> float:
        """Of a rung with all its candidates, and the base scored on its tests."""
        return rung.candidates * self.of(rung) + self.fixed + self.scored(rung.tests) * self.base


def designed(
    prices: Prices, most: int, seconds: float, telling: float = 0.0
) -> tuple[Planned, ...] | None:
    """The rungs of a search that is predicted to take at most `seconds`.

    With at least six candidates, the longest last rung is preferred, then more candidates, then
    fewer rungs, the first of which is longer. Where six do not fit, more candidates come before
    length. Only where nothing else fits is a rung too short to tell.

    Args:
        prices: What a candidate takes.
        most: How many candidates there are.
        seconds: What is left of the budget.
        telling: The least share of the steps in the first rung.

    Returns:
        None where not even two candidates taught an eighth of the steps fit.
    """
    for rungs in _designs(most, telling):
        if sum(map(prices.whole, rungs)) <= seconds:
            return rungs
    return None


def least_seconds(prices: Prices, most: int) -> float:
    """What the smallest search takes."""
    return min(sum(map(prices.whole, rungs)) for rungs in _designs(most, 0.0))


def _designs(most: int, telling: float) -> Iterator[tuple[Planned, ...]]:
    """All that are worth it, the best first."""
    many = range(most, min(most, WORTH) - 1, -1)
    few = range(min(most, WORTH), min(most, LEAST) - 1, -1)
    for length, candidates in product(LENGTHS, many):
        yield from _halvings(candidates, length, telling)
    for candidates, length in product(few, LENGTHS):
        yield from _halvings(candidates, length, telling)
    for candidates, length in product(few, LENGTHS):
        yield from _halvings(candidates, length, 0.0)


def _halvings(candidates: int, length: float, telling: float) -> Iterator[tuple[Planned, ...]]:
    """One rung, or two or three, none of which is too short."""
    for count in (1, 2, 3) if candidates > LEAST else (1,):
        rungs = _rungs(candidates, length, count)
        if rungs[0].steps >= telling:
            yield rungs


def _rungs(candidates: int, length: float, count: int) -> tuple[Planned, ...]:
    rungs = []
    for place in range(count):
        shrunk = ETA ** (count - 1 - place)
        left = min(candidates, max(LEAST, ceil(candidates / ETA**place)))
        rungs.append(Planned(candidates=left, steps=length / shrunk, tests=1 / shrunk))
    return tuple(rungs)
