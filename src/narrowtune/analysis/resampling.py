"""The bootstrap over samples, by whole clusters where samples share one, and over runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

DRAWS = 4000
SEED = 20251008
"""Fixed: the same record gives the same interval."""

LARGEST_KEPT = 1000
"""Samples whose draws are kept: 32 such sets of 4,000 take 256 MB."""

Array = NDArray[np.float64]


def resampled_means(
    tasks: Sequence[tuple[Array, Sequence[str]]],
    orders: Sequence[int] = (1,),
    draws: int = DRAWS,
    of_run: Callable[[Array], Array] = lambda means: means,
) -> tuple[Array, Array]:
    """Means over samples, runs and tasks, as they are and as resampling moves them.

    Samples are drawn within each task by whole clusters (Efron & Tibshirani 1993, chapter 8, for
    structured data), runs within their order and independently of samples (Owen 2007), tasks not at
    all. Where no order has two runs, runs are drawn across orders.

    Args:
        tasks: For each task, values `[samples, runs, quantities]` and each sample's cluster.
        orders: The order that each run went in.
        draws: How many resamples.
        of_run: What is averaged over runs, made of each run's own means over samples: from and to
            `[..., runs, quantities]`.

    Returns:
        The means `[quantities]` and the resampled means `[draws, quantities]`.
    """
    plain = [of_run(values.mean(axis=0)).mean(axis=0) for values, _ in tasks]
    return np.mean(plain, axis=0), np.mean(resampled(tasks, orders, draws, of_run), axis=0)


def resampled(
    tasks: Sequence[tuple[Array, Sequence[str]]],
    orders: Sequence[int],
    draws: int = DRAWS,
    of_run: Callable[[Array], Array] = lambda means: means,
) -> list[Array]:
    """For each task the resampled means `[draws, quantities]`; draw by draw the same runs.

    The arguments are those of `resampled_means`; here tasks may differ in their quantities.
    """
    chance = np.random.default_rng(SEED)
    over_runs = _weights_of_runs(orders, chance, draws)  # [draws, runs]
    moved = []
    for values, clusters in tasks:
        per_run = _by_clusters(values, clusters, chance, draws)  # [draws, runs, quantities]
        moved.append(np.einsum("dr,drq->dq", over_runs, of_run(per_run)))
    return moved


def percentile_interval(moved: Array) -> tuple[float, float]:
    """The 2.5 and 97.5 % quantiles."""
    low, high = np.quantile(moved, (0.025, 0.975))
    return float(low), float(high)


def drawn(size: int, chance: np.random.Generator, draws: int) -> Array:
    """How often each of `size` things is drawn when as many are, with replacement.

    Every interval draws from `SEED` on, mostly for as many samples: the same draws are made once.
    """
    if size > LARGEST_KEPT:
        return _counts(size, chance, draws).astype(float)
    found, after = _kept(size, draws, json.dumps(chance.bit_generator.state))
    chance.bit_generator.state = json.loads(after)
    return found.astype(float)


@lru_cache(maxsize=32)
def _kept(size: int, draws: int, state: str) -> tuple[NDArray[np.integer], str]:
    """What a generator in that state draws, and its state thereafter."""
    chance = np.random.default_rng()
    chance.bit_generator.state = json.loads(state)
    found = _counts(size, chance, draws).astype(np.min_scalar_type(size))
    return found, json.dumps(chance.bit_generator.state)


def _counts(size: int, chance: np.random.Generator, draws: int) -> NDArray[np.integer]:
    return chance.multinomial(size, np.full(size, 1 / size), size=draws)


def _weights_of_runs(orders: Sequence[int], chance: np.random.Generator, draws: int) -> Array:
    groups = np.asarray(orders)
    if len(set(orders)) == len(orders):
        groups = np.zeros(len(orders))
    weights = np.zeros((draws, len(orders)))
    for group in np.unique(groups):
        (members,) = np.nonzero(groups == group)
        weights[:, members] = drawn(len(members), chance, draws)
    return weights / len(orders)


def _by_clusters(
    values: Array, clusters: Sequence[str], chance: np.random.Generator, draws: int
) -> Array:
    _, place = np.unique(np.asarray(clusters), return_inverse=True)
    groups = int(place.max()) + 1
    sums = np.zeros((groups, *values.shape[1:]))
    np.add.at(sums, place, values)
    weights = drawn(groups, chance, draws)
    sizes = weights @ np.bincount(place).astype(float)
    found: Array = (weights @ sums.reshape(groups, -1)) / sizes[:, None]
    return found.reshape(draws, *values.shape[1:])
