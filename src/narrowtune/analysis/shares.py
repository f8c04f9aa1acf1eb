"""The interval of a share: of one mean change over another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from narrowtune.analysis.estimate import Contrast

if TYPE_CHECKING:
    from narrowtune.analysis.resampling import Array

Changes = Sequence[Sequence[Contrast]]
"""For each run one contrast per task; the same tasks and samples in every run."""

DRAWS = 4000
"""As many as `resampling` draws, which brings numpy and so is imported late."""


def share_interval(
    parts: Changes, wholes: Changes, orders: Sequence[int], draws: int = DRAWS
) -> tuple[float, float]:
    """95 % interval of the mean of `parts` over that of `wholes`, by bootstrap.

    Samples are drawn by whole clusters and runs within their order, both changes together.
    Unbounded where the answers themselves are not at hand.

    Args:
        parts: The changes above.
        wholes: Those below; their mean must be clearly off 0, or the interval means nothing.
        orders: The order that each run went in.
        draws: How many resamples.
    """
    if not all(one.differences for run in (*parts, *wholes) for one in run):
        return -math.inf, math.inf
    import numpy as np

    from narrowtune.analysis.resampling import percentile_interval, resampled_means

    tasks = []
    for number, one in enumerate(wholes[0]):
        pairs = [(whole[number], part[number]) for whole, part in zip(wholes, parts, strict=True)]
        tasks.append((_stack(pairs, list(one.differences)), one.clusters))
    plain, moved = resampled_means(tasks, orders, draws)
    sign = math.copysign(1.0, float(plain[0]))
    return percentile_interval(moved[:, 1] / (sign * np.maximum(sign * moved[:, 0], 1e-9)))


def _stack(pairs: Sequence[tuple[Contrast, Contrast]], ids: list[str]) -> Array:
    """`[samples, runs, 2]`: what each sample changes by in each run, whole and part."""
    import numpy as np

    columns = [[[one.differences[i] for one in pair] for i in ids] for pair in pairs]
    return np.asarray(columns, dtype=float).transpose(1, 0, 2)
