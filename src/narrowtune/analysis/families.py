"""Families of arms and what they are compared by: the values of a frontier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from narrowtune.analysis.estimate import Estimate

Quantity = Literal["kept", "learned", "area"]


@dataclass(frozen=True)
class Ranged:
    """A value with its 95 % interval over resamples; an end that is None is open."""

    value: float
    low: float | None
    high: float | None

    @property
    def clear(self) -> bool:
        """Whether a difference is outside the noise: its interval does not hold 0."""
        return (self.low is not None and self.low > 0) or (self.high is not None and self.high < 0)


@dataclass(frozen=True)
class FrontierPoint:
    """One cell: what it learned, kept and cost, mean over runs.

    Attributes:
        arm: Its name.
        learning: Target learning.
        kept: Held-out change at the end.
        on_frontier: Whether no other cell of its family beats it on both axes.
        drift: KL to the base at the end, nats per token; None unless read of every arm.
        seconds: Of training, summed over stages; None without cost rows.
        tokens: Put through the model in training, summed over stages.
        learning_spread: Standard deviation of learning between seeds of one order.
        kept_spread: The same of the held-out change.
    """

    arm: str
    learning: Estimate
    kept: Estimate
    on_frontier: bool
    drift: float | None
    seconds: float | None
    tokens: float | None
    learning_spread: float | None
    kept_spread: float | None


@dataclass(frozen=True)
class Matched:
    """A family's value at one level; None where its curve does not get there.

    `at_least`: no cell of the family lies on the near side of the level, so the value is that of
    its nearest cell, which did more than asked: the family does at least as well.
    """

    level: float
    value: Ranged | None
    at_least: bool = False


@dataclass(frozen=True)
class Price:
    """The cheapest cell of a family that reaches a level, by seconds of training, then tokens.

    `reached_in` is the share of resamples in which it reaches it; None without resamples.
    """

    level: float
    arm: str
    seconds: float
    tokens: float
    reached_in: float | None


@dataclass(frozen=True)
class Family:
    """A sweep's cells, or one arm without a sweep, and the curve through them.

    Attributes:
        name: The arm that was swept.
        points: Its cells, in the experiment's order.
        kept_at: Held-out change at each share of the best learning.
        learned_at: Learning at each level of drift, in nats per token.
        area: Mean share of the base's held-out score kept, over learning from 0 to the best of any
            arm, levels not reached counting 0; None where no arm learned, or scores have no share.
        prices: The cheapest cell at each level that the family reaches.
    """

    name: str
    points: tuple[FrontierPoint, ...]
    kept_at: tuple[Matched, ...]
    learned_at: tuple[Matched, ...]
    area: Ranged | None
    prices: tuple[Price, ...]


@dataclass(frozen=True)
class Gap:
    """How much more `family` keeps, learns or covers than `other`, on the same resamples.

    `level` is a share of the best learning for `kept`, nats per token for `learned`, None for
    `area`.
    """

    quantity: Quantity
    family: str
    other: str
    level: float | None
    difference: Ranged


@dataclass(frozen=True)
class Frontier:
    """All families of an experiment, compared.

    Attributes:
        families: In the experiment's order.
        best: The cell that learned most.
        levels: Shares of its learning at which families are compared.
        gaps: Every pair of families wherever both have a value.
        left_out: Arms that are no points, with the reason.
        runs: How many replicates are behind it.
        draws: How many resamples; 0 where answers are not at hand, and then no interval is known.
    """

    families: tuple[Family, ...]
    best: FrontierPoint
    levels: tuple[float, ...]
    gaps: tuple[Gap, ...]
    left_out: Mapping[str, str]
    runs: int
    draws: int
