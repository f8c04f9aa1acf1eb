"""Multiplications and additions that a step really executes, and how fast the machine can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import flop_counter

from benchmarks.timing import Timing
from benchmarks.turns import OnStep

SIDE = 2048


def _forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return flop_counter.sdpa_flop_count(query, key, value)


def _backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return flop_counter.sdpa_backward_flop_count(gradient, query, key, value)


def _added(_total: Any, left: Any, right: Any, *_: Any, **__: Any) -> int:
    return flop_counter.mm_flop(left, right)


# What PyTorch's counter does not know: attention on CPUs (masked places count, as on GPUs), and
# products added in place, which TRL's head is made of.
_FURTHER = {
    torch.ops.aten.addmm_: _added,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _forward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward,
}


class SecondStepCounted:
    """A training loop whose second step is counted: its products, backward passes included.

    In the first one models are tried, and stores filled.

    Args:
        loop: Calls what it is given after every step.
    """

    def __init__(self, loop: Callable[[OnStep], None]) -> None:
        self.flops = self._steps = 0
        self._loop = loop
        self._counter = flop_counter.FlopCounterMode(display=False, custom_mapping=_FURTHER)

    def __call__(self, on_step: OnStep) -> None:
        """Run the loop."""

        def stepped(loss: float) -> None:
            self._steps += 1
            if self._steps == 1:
                self._counter.__enter__()
            if self._steps == 2:
                self._counter.__exit__(None, None, None)
                self.flops = int(self._counter.get_total_flops())
            on_step(loss)

        self._loop(stepped)


class Product:
    """A large fp32 matrix product: what nothing on this machine computes faster than."""

    flops = 2 * SIDE**3

    def __init__(self) -> None:
        self._left, self._right = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
        self.timing = Timing()

    def time(self) -> None:
        """Once more, beside whatever else takes turns."""
        with self.timing.noting():
            torch.mm(self._left, self._right)

    @property
    def per_cpu_second(self) -> float:
        """FLOPs per CPU second, at its best."""
        return self.flops / min(self.timing.cpu)
