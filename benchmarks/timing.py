"""Seconds of a training step, for variants that take turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from narrowtune.data.batching import Batch


@dataclass
class Timing:
    """Seconds per step of one variant."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Adds the seconds that the context lasts."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)

    def cpu_times(self, base: Timing) -> float:
        """CPU seconds as a multiple of `base`'s: the median over pairs taken side by side."""
        return statistics.median(a / b for a, b in zip(self.cpu, base.cpu, strict=True))


def timed_step(
    model: nn.Module, loss: Callable[[nn.Module, Batch], Tensor], batch: Batch, timing: Timing
) -> float:
    """Forward and backward once; its loss, with the seconds noted in `timing`."""
    with timing.noting():
        value = loss(model, batch)
        value.backward()
    model.zero_grad(set_to_none=True)
    return float(value.detach())
