"""How many steps, and the learning rate at each."""

from __future__ import annotations

import math


def planned_steps(
    samples: int, batch_size: int, epochs: float = 1.0, steps: int | None = None
) -> int:
    """Optimiser steps of a stage: `steps` where given, otherwise `epochs` over the samples.

    An epoch ends with a short batch where the samples don't fill the last one, so whole epochs
    show every sample exactly that often.
    """
    if steps is not None:
        return steps
    return max(1, math.ceil(epochs * math.ceil(samples / batch_size)))


def learning_rate_factor(step: int, steps: int, schedule: str, warmup: float) -> float:
    """The share of the peak learning rate used at `step` (from 0) of `steps`.

    Linear warm-up over `ceil(warmup * steps)` steps, then `cosine` to zero (SGDR without
    restarts, arXiv 1608.03983, eq. 5), `linear` to zero, or `constant`.
    """
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    progress = (step - rising) / max(1, steps - rising)
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress))
