"""The line from where training began to where it ended: any share of a change, in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from narrowtune.delta.delta import between

Named = Sequence[tuple[str, nn.Parameter]]

GRID = (1.0, 0.75, 0.5, 0.25, 0.0)
BISECTIONS = 6
"""Halvings of a quarter: a share is found to 0.004."""


def kept(named: Named) -> dict[str, Tensor]:
    """The parameters' values, copied to the CPU."""
    return {name: parameter.detach().to("cpu", copy=True) for name, parameter in named}


@dataclass(frozen=True)
class Line:
    """Two ends of some parameters' values, on the CPU; of the frozen ones there is no copy."""

    start: Mapping[str, Tensor]
    end: Mapping[str, Tensor]

    @torch.no_grad()
    def put(self, named: Named, alpha: float) -> None:
        """Set the parameters to start + alpha (end - start), in fp32 and rounded once.

        At 0 and 1 they are the ends bit by bit.
        """
        for name, parameter in named:
            parameter.copy_(between(self.start[name], self.end[name], alpha))


def largest_share(fits: Callable[[float], bool]) -> float:
    """The largest share that fits, found without assuming that all smaller ones do.

    Looks at 1 and 0; where 1 doesn't fit, at the quarters between them too, and then halves the
    interval above the largest that does.

    Args:
        fits: Looks at one share.

    Returns:
        0 where none was found, whether it fits or not.
    """
    if fits(1.0):
        fits(0.0)  # the other end, for whoever draws the curve
        return 1.0
    good = [alpha for alpha in GRID[1:] if fits(alpha)]
    if not good:
        return 0.0
    low = good[0]
    high = GRID[GRID.index(low) - 1]
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
