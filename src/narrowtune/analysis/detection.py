"""Yes-or-no answers by signal detection: what is told apart, and which answer is preferred.

With H the share of yes where yes is right and F where no is: d' = z(H) - z(F), the ability to tell
them apart, and the criterion c = -(z(H) + z(F)) / 2, positive where no is preferred (Macmillan &
Creelman, "Detection Theory", 2nd ed., chapters 1 and 2). Shares of 0 and 1 have no z: half an
answer is added to each count and one to each total (Hautus 1995).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from narrowtune.analysis.samples import Sample

if TYPE_CHECKING:
    from narrowtune.analysis.resampling import Array


@dataclass(frozen=True)
class Reading:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Detection:
    """How yes and no are told apart on one task.

    Attributes:
        discrimination: d', standard deviations.
        criterion: c, standard deviations; positive: no is preferred.
        said_yes: Share of answers that are yes.
        neither: Share of answers that are neither; counted as no in the others.
        n: Samples, over all runs.
    """

    discrimination: Reading
    criterion: Reading
    said_yes: float
    neither: float
    n: int


def detection(
    runs: Sequence[Mapping[str, Sample]], orders: Sequence[int] | None = None
) -> Detection | None:
    """The mean over runs that answered the same samples.

    None where yes or no is never right, or where it was not recorded what the task's metric reads
    in the answers. Intervals by bootstrap over samples (their clusters) and runs.
    """
    import numpy as np

    from narrowtune.analysis.resampling import percentile_interval, resampled_means

    first = list(runs[0].values()) if runs else []
    right = [one.references[0].strip().lower().startswith("yes") for one in first]
    said = np.array([[run[one.id].said for run in runs] for one in first])
    if not any(right) or all(right) or not said.all():
        return None
    yes, true = (said == "yes").astype(float), np.repeat(np.array(right)[:, None], len(runs), 1)
    values = np.stack([yes * true, true, yes * ~true, ~true], axis=-1).astype(float)
    clusters = [one.cluster or f"#{place}" for place, one in enumerate(first)]
    # Of each run by itself: runs that lean to yes and to no would else look unable to tell.
    of_run = partial(_signal, samples=len(first))
    plain, moved = resampled_means([(values, clusters)], orders or [1] * len(runs), of_run=of_run)
    d_prime, criterion = (
        Reading(float(at), *percentile_interval(draws))
        for at, draws in zip(plain, moved.T, strict=True)
    )
    neither = float((said == "neither").mean())
    return Detection(d_prime, criterion, float(yes.mean()), neither, len(first) * len(runs))


def _signal(shares: Array, samples: int) -> Array:
    """d' and criterion, [..., 2], of mean shares of yes, [..., 4], counted over so many samples."""
    import numpy as np
    from scipy.stats import norm

    hits, yes_right, alarms, no_right = np.moveaxis(shares * samples, -1, 0)
    hit = norm.ppf((hits + 0.5) / (yes_right + 1))
    alarm = norm.ppf((alarms + 0.5) / (no_right + 1))
    found: Array = np.stack([hit - alarm, -(hit + alarm) / 2], axis=-1)
    return found
