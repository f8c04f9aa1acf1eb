"""Weighted correlations of many resamples at once: a weight says how often a draw holds a point."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from narrowtune.analysis.resampling import Array


def pearson(x: Array, y: Array, weights: Array, groups: Sequence[int]) -> Array:
    """Pearson's correlation of what is left when each group's means are taken away.

    Args:
        x: `[points]`.
        y: `[points]`.
        weights: `[draws, points]`.
        groups: The group of each point; all the same for the plain coefficient.

    Returns:
        `[draws]`; NaN where one of the two does not vary.
    """
    found = np.zeros((3, len(weights)))
    for here in _members(groups):
        # Away from the plain mean first: products of large numbers cancel badly.
        sides = [side[here] - side[here].mean() for side in (x, y)]
        found += _products(sides[0], sides[1], weights[:, here])
    return _ratio(found)


def spearman(x: Array, y: Array, weights: Array, groups: Sequence[int]) -> Array:
    """Spearman's: Pearson's correlation of ranks, which are taken anew in each draw and group.

    Arguments and result are those of `pearson`.
    """
    found = np.zeros((3, len(weights)))
    for here in _members(groups):
        sides = [ranks(side[here], weights[:, here]) for side in (x, y)]
        found += _products(sides[0], sides[1], weights[:, here])
    return _ratio(found)


def ranks(values: Array, weights: Array) -> Array:
    """Each point's rank from 0 to 1 in each draw, ties sharing their middle: `[draws, points]`."""
    _, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(place.max() + 1))
    share = np.add.reduceat(weights[:, order], starts, axis=1)  # [draws, distinct values]
    middle = np.cumsum(share, axis=1) - share / 2
    found: Array = (middle / _no_less(share.sum(axis=1, keepdims=True)))[:, place]
    return found


def _members(groups: Sequence[int]) -> list[NDArray[np.bool_]]:
    of = np.asarray(groups)
    return [of == group for group in np.unique(of)]


def _products(x: Array, y: Array, weights: Array) -> Array:
    """Weighted sums of squares and products about the weighted means: `[3, draws]`.

    Both sides are `[points]`, or `[draws, points]` where they differ from draw to draw.
    """
    total, along = _no_less(weights.sum(axis=1)), "dp,dp->d" if x.ndim == 2 else "dp,p->d"
    sums = [np.einsum(along, weights, side) for side in (x, y)]
    pairs = ((x, x, 0, 0), (y, y, 1, 1), (x, y, 0, 1))
    return np.stack(
        [np.einsum(along, weights, a * b) - sums[i] * sums[j] / total for a, b, i, j in pairs]
    )


def _ratio(products: Array) -> Array:
    across, along, together = products
    size = np.sqrt(np.maximum(across, 0) * np.maximum(along, 0))
    defined = size > 1e-14
    found: Array = np.where(defined, together / np.where(defined, size, 1.0), np.nan)
    return np.clip(found, -1.0, 1.0)


def _no_less(total: Array) -> Array:
    """A total to divide by, where a draw may hold nothing of a group."""
    found: Array = np.maximum(total, 1e-12)
    return found
