"""Seconds of a training step, for variants that take turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from narrowtune.data.batching import Batch


@dataclass
class Timing:
    """Seconds per step of one variant."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def timed_step(
    model: nn.Module, loss: Callable[[nn.Module, Batch], Tensor], batch: Batch, timing: Timing
) -> float:
    """Forward and backward once; its loss, with the seconds noted in `timing`."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = loss(model, batch)
    value.backward()
    timing.wall.append(time.perf_counter() - wall)
    timing.cpu.append(time.process_time() - cpu)
    model.zero_grad(set_to_none=True)
    return float(value.detach())
