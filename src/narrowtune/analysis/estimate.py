"""Estimates with 95 % intervals, from the first two moments of per-sample scores.

The intervals are normal ones with pseudo-samples added, so that they stay honest for few samples
and at 0 or 100 %, where a plain standard error is 0:

- a paired change adds one sample gained and one lost (Bonett & Price 2012);
- an unpaired change adds one right and one wrong answer to each model (Agresti & Caffo 2000);
- a single score adds two right and two wrong answers (Agresti & Coull 1998).

A mean over k tasks weights every task alike, treats the tasks as independent (each has its own
samples) and shares the pseudo-samples between them, 1/k to each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import mul
from typing import Literal

from narrowtune.record import Score

Z95 = 1.959963984540054
Pairing = Literal["paired", "unpaired", "mixed", "single"]


@dataclass(frozen=True)
class Estimate:
    """A value (a fraction, not percent) with its 95 % interval and where both come from.

    `n` counts the samples behind it, over all its tasks. `pairing` says whether the interval
    rests on the same samples under both models (`paired`), on two standard errors (`unpaired`),
    on some of each (`mixed`), or belongs to one model's score (`single`).
    """

    value: float
    low: float
    high: float
    n: int
    tasks: int
    pairing: Pairing
    runs: int = 1

    @property
    def clear(self) -> bool:
        """Whether a change is outside the noise: its interval does not hold 0."""
        return self.low > 0 or self.high < 0

    @property
    def verdict(self) -> Literal["better", "worse", "unclear"]:
        """The only words a change may be given: an unclear one is never called a loss."""
        if not self.clear:
            return "unclear"
        return "better" if self.low > 0 else "worse"

    @property
    def half_width(self) -> float:
        """Half the interval's length."""
        return (self.high - self.low) / 2

    def times(self, factor: int) -> Estimate:
        """This mean as a sum over `factor` tasks."""
        low, value, high = (x * factor for x in (self.low, self.value, self.high))
        return replace(self, value=value, low=low, high=high)


@dataclass(frozen=True)
class Moments:
    """How many samples there are, their sum and their sum of squares."""

    n: float
    total: float
    squares: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Moments:
        """The moments of the given values."""
        listed = list(values)
        return cls(len(listed), math.fsum(listed), math.fsum(map(mul, listed, listed)))

    @classmethod
    def of_score(cls, score: Score) -> Moments:
        """What a score's value, n and standard error say about its samples' moments."""
        spread = score.stderr**2 * score.n * max(score.n - 1, 0)
        return cls(score.n, score.value * score.n, spread + score.n * score.value**2)

    def plus(self, pseudo: Sequence[float], weight: float) -> Moments:
        """These moments with a weighted sample added at every value of `pseudo`."""
        return Moments(
            self.n + weight * len(pseudo),
            self.total + weight * sum(pseudo),
            self.squares + weight * sum(x * x for x in pseudo),
        )

    @property
    def mean(self) -> float:
        """The mean of the samples."""
        return self.total / self.n

    @property
    def variance_of_mean(self) -> float:
        """The squared standard error of the mean (plug-in variance over n)."""
        return max(self.squares / self.n - self.mean**2, 0.0) / self.n


@dataclass(frozen=True)
class Contrast:
    """One task's change between two models, before it is averaged with other tasks.

    `moments` are those of the per-sample differences (one entry, paired), or of the scores after
    and before (two entries, unpaired). `design_effect` is how many times the variance grows
    because samples share clusters (images, passages); `differences` are the paired ones by sample,
    `clusters` the cluster of each, all their own where it is empty.
    """

    value: float
    moments: tuple[Moments, ...]
    task: str = ""
    design_effect: float = 1.0
    differences: Mapping[str, float] = field(default_factory=dict)
    clusters: tuple[str, ...] = ()

    @property
    def pairing(self) -> Pairing:
        """Whether both models were scored on the same samples, one by one."""
        return "paired" if len(self.moments) == 1 else "unpaired"

    def adjusted(self, weight: float) -> tuple[float, float]:
        """Centre and squared standard error with pseudo-samples of the given weight."""
        if len(self.moments) == 1:
            differences = self.moments[0].plus((1.0, -1.0), weight)
            return differences.mean, self.design_effect * differences.variance_of_mean
        after, before = (m.plus((0.0, 1.0), weight) for m in self.moments)
        return after.mean - before.mean, after.variance_of_mean + before.variance_of_mean


def average_change(contrasts: Sequence[Contrast]) -> Estimate | None:
    """The mean change over tasks, every task weighing the same; None when there is none."""
    if not contrasts:
        return None
    kinds = {contrast.pairing for contrast in contrasts}
    return _average(
        [contrast.value for contrast in contrasts],
        [contrast.adjusted(1 / len(contrasts)) for contrast in contrasts],
        samples=[contrast.moments[0].n for contrast in contrasts],
        pairing=kinds.pop() if len(kinds) == 1 else "mixed",
        floor=-1.0,
    )


def average_score(scores: Sequence[Score]) -> Estimate | None:
    """The mean score over tasks on one model, every task weighing the same."""
    if not scores:
        return None
    adjusted = [Moments.of_score(s).plus((0.0, 1.0), 2 / len(scores)) for s in scores]
    return _average(
        [score.value for score in scores],
        [(moments.mean, moments.variance_of_mean) for moments in adjusted],
        samples=[score.n for score in scores],
        pairing="single",
        floor=0.0,
    )


def _average(
    values: Sequence[float],
    adjusted: Sequence[tuple[float, float]],
    *,
    samples: Sequence[float],
    pairing: Pairing,
    floor: float,
) -> Estimate:
    """The plain mean of the values, and the interval of the adjusted ones around it."""
    k = len(values)
    centre = math.fsum(mean for mean, _ in adjusted) / k
    reach = Z95 * math.sqrt(math.fsum(variance for _, variance in adjusted)) / k
    value = math.fsum(values) / k
    low, high = max(centre - reach, floor), min(centre + reach, 1.0)
    # Rounding may put a value at the very edge a hair outside its own interval.
    return Estimate(value, min(low, value), max(high, value), int(sum(samples)), k, pairing)
