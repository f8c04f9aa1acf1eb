"""The curve through the points that no other point beats on both axes, for many resamples at once.

All arrays of points are `[draws, points]`; more is better on both axes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from narrowtune.analysis.resampling import Array

_TINY = 1e-12  # equal numbers that were computed on two ways


def non_dominated(x: Array, y: Array) -> NDArray[np.bool_]:
    """Which points no other point equals or beats on both axes while beating it on one."""
    x, y = x.round(12), y.round(12)
    no_worse = (x[:, None, :] >= x[:, :, None]) & (y[:, None, :] >= y[:, :, None])
    better = (x[:, None, :] > x[:, :, None]) | (y[:, None, :] > y[:, :, None])
    found: NDArray[np.bool_] = np.logical_not(np.any(no_worse & better, axis=2))
    return found


def value_at(x: Array, y: Array, at: Array) -> Array:
    """The curve's height at one place in each draw: `[draws]`, NaN beyond its last point.

    Straight between neighbouring points. Before its first point it is as high as there: that
    point has more of x, and as much of y.
    """
    xs, ys = _frontier(x, y)
    at = np.where(np.abs(at - xs[:, -1]) < _TINY, xs[:, -1], at)
    right = np.minimum((xs < at[:, None] - _TINY).sum(axis=1), xs.shape[1] - 1)
    left = np.maximum(right - 1, 0)
    (x0, x1), (y0, y1) = ([_pick(side, place) for place in (left, right)] for side in (xs, ys))
    width = x1 - x0
    share = np.where(width > _TINY, (at - x0) / np.maximum(width, _TINY), 1.0)
    return np.where(at <= xs[:, -1], y0 + (y1 - y0) * share, np.nan)


def starts_at(x: Array, y: Array) -> Array:
    """The least x of a point on the curve: before it, heights are only bounds. `[draws]`."""
    return _frontier(x, y)[0][:, 0]


def mean_height(x: Array, y: Array, until: Array) -> Array:
    """The curve's mean height from x = 0 to `until`, counting 0 beyond its last point: `[draws]`.

    Args:
        x: Places.
        y: Heights, none below 0.
        until: Where the range ends in each draw, above 0.
    """
    xs, ys = _frontier(x, y)
    xs = np.hstack([np.minimum(xs[:, :1], 0.0), xs])
    ys = np.hstack([ys[:, :1], ys])
    begin, end = (np.clip(side, 0.0, until[:, None]) for side in (xs[:, :-1], xs[:, 1:]))
    width = xs[:, 1:] - xs[:, :-1]
    slope = (ys[:, 1:] - ys[:, :-1]) / np.maximum(width, _TINY)
    middle = ys[:, :-1] + slope * ((begin + end) / 2 - xs[:, :-1])
    found: Array = ((end - begin) * middle).sum(axis=1) / until
    return found


def _frontier(x: Array, y: Array) -> tuple[Array, Array]:
    """The curve's points by rising x; the others are put where the curve ends."""
    on = non_dominated(x, y)
    last = np.where(on, x, -np.inf).argmax(axis=1)
    xs, ys = (np.where(on, side, _pick(side, last)[:, None]) for side in (x, y))
    order = np.argsort(xs, axis=1, kind="stable")
    return np.take_along_axis(xs, order, axis=1), np.take_along_axis(ys, order, axis=1)


def _pick(values: Array, place: NDArray[np.int_]) -> Array:
    return np.take_along_axis(values, place[:, None], axis=1)[:, 0]
