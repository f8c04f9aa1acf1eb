"""The one place that knows Accelerate: where tensors live and how gradients meet."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn


class Engine:
    """A process's view of the hardware it runs on, alone or beside others.

    Started by `accelerate launch`, each process gets its share of every batch; started plainly,
    there is one process and nothing is wrapped.

    Args:
        device: Where to compute; with several processes Accelerate gives each its own.
    """

    def __init__(self, device: str | None = None) -> None:
        # The model is loaded in its compute dtype with fp32 masters of the trained part,
        # so Accelerate's own autocast stays out of it.
        self._accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no")
        own: torch.device = self._accelerator.device
        self.device = own if device is None or self.processes > 1 else torch.device(device)

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

    def share(self, rows: Sequence[Any]) -> list[Any]:
        """This process's part of a batch; the parts of all processes make the batch."""
        return list(rows[self.rank :: self.processes])

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients to those already there, in this process.

        A loss that nothing trained has a share in adds none: text rows, when only the vision tower
        is trained.
        """
        if loss.requires_grad:
            self._accelerator.backward(loss)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over the processes.

        Once a step, on the fp32 masters: unlike DistributedDataParallel this needs no wrapper,
        leaves frozen and unused parameters alone, and adds micro-batches before rounding. A
        process whose share did not reach a parameter counts as zero.
        """
        if self.processes == 1:
            return
        for parameter in parameters:
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            # Offloaded ones travel: what sums over GPUs (NCCL) reads no other memory.
            parameter.grad = self.sum(own.to(self.device)).to(own.device)

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


def told_by_any(flag: bool, device: torch.device | str) -> bool:
    """Whether one of the processes says so; whoever started them, all of them must ask.

    So that a decision taken on rounded numbers is the same everywhere.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return flag
    said = torch.tensor(float(flag), device=device)
    dist.all_reduce(said, op=dist.ReduceOp.MAX)
    return bool(said)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def deterministic() -> Iterator[None]:
    """Ask PyTorch for deterministic kernels while the context lasts; warn where there are none."""
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    # Read by cuBLAS when its first handle is made, so it is set before any work.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
