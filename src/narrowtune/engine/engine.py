"""The one place that knows Accelerate: where tensors live and how gradients meet."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn


class Engine:
    """A process's view of the hardware it runs on, alone or beside others.

    Started by `accelerate launch`, each process gets its share of every batch; started plainly,
    there is one process and nothing is wrapped.

    Args:
        device: `cpu` keeps everything on the CPU; otherwise Accelerate chooses.
    """

    def __init__(self, device: str | None = None) -> None:
        # The model is loaded in its compute dtype with fp32 masters of the trained part,
        # so Accelerate's own autocast stays out of it.
        self._accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no")

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        device: torch.device = self._accelerator.device
        return device

    @property
    def processes(self) -> int:
        """How many processes share the work."""
        return int(self._accelerator.num_processes)

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        return int(self._accelerator.process_index)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return bool(self._accelerator.is_main_process)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model ready for `backward`: itself, or wrapped to average gradients."""
        if self.processes == 1:
            return model
        wrapped: nn.Module = self._accelerator.prepare_model(model)
        return wrapped

    def share(self, rows: Sequence[Any]) -> list[Any]:
        """This process's part of a batch; the parts of all processes make the batch."""
        return list(rows[self.rank :: self.processes])

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients to those already there, summed over the processes."""
        # DistributedDataParallel averages; our loss is a share of one sum, so undo the division.
        self._accelerator.backward(loss * self.processes)

    @contextmanager
    def accumulating(self, model: nn.Module, last: bool) -> Iterator[None]:
        """Hold back the exchange of gradients until the last micro-batch of a step."""
        if last or self.processes == 1:
            yield
            return
        with self._accelerator.no_sync(model):
            yield

    def sum(self, value: Tensor) -> Tensor:
        """The value summed over all processes."""
        if self.processes == 1:
            return value
        total: Tensor = self._accelerator.reduce(value, reduction="sum")
        return total

    def wait(self) -> None:
        """Return when all processes have come here."""
        self._accelerator.wait_for_everyone()


def is_main_process() -> bool:
    """Whether this process talks to the user; known from the launcher before anything starts."""
    return os.environ.get("RANK", "0") == "0"


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch, and ask PyTorch for deterministic kernels."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
