"""Looks at a model while it is being trained: when they are due, and leaving no trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from torch import nn

from narrowtune.models.prompt_cache import stored_tensors_kept

Interval = int | Literal["log"]


def is_due(step: int, every: Interval, last: bool) -> bool:
    """Whether to look after this step: every so many, or after 1, 10, 100 and so on; at the last.

    Args:
        step: Steps done, from 1.
        every: The interval.
        last: Whether training ends here, so that what was followed has an end.
    """
    if last:
        return True
    return str(step).rstrip("0") == "1" if every == "log" else step % every == 0


@contextmanager
def leaving_no_trace(model: nn.Module) -> Iterator[None]:
    """Whatever is drawn or stored inside, training goes on as if it had not been.

    Random states come back, and so do tensors that forward passes store on modules.
    """
    device = next(model.parameters()).device
    numbers, arrays = random.getstate(), np.random.get_state()
    drawing = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(drawing), stored_tensors_kept(model):
        try:
            yield
        finally:
            random.setstate(numbers)
            np.random.set_state(arrays)
