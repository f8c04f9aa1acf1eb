"""A stage half-way: everything that the next step depends on, in one safetensors file."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from narrowtune.delta import load_tensors, save_tensors
from narrowtune.errors import InputError
from narrowtune.training.guard import GuardState
from narrowtune.training.loop import StepResult
from narrowtune.training.weights import TrainedWeights

_STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """Where a stage stands: finished steps, with their results, and the seconds they took.

    `guard` is what its guard needs to go on.
    """

    done: tuple[StepResult, ...]
    seconds: float
    guard: GuardState = field(default_factory=GuardState)

    @property
    def step(self) -> int:
        """How many optimiser steps are finished."""
        return len(self.done)


def save_checkpoint(
    path: Path, weights: TrainedWeights, optimiser: torch.optim.Optimizer, progress: Checkpoint
) -> None:
    """Write weights, optimiser moments and random states; an older checkpoint is replaced.

    No pickle: tensors and a JSON text in one safetensors file, renamed into place when whole.
    """
    tensors = {f"master/{name}": tensor for name, tensor in weights.tensors().items()}
    for name, master in zip(weights.names, weights.masters, strict=True):
        for key, value in optimiser.state.get(master, {}).items():
            tensors[f"optimiser/{key}/{name}"] = torch.as_tensor(value)
    tensors |= {f"guard/{name}": tensor for name, tensor in progress.guard.tensors.items()}
    tensors["random/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    state = {
        "done": [asdict(result) for result in progress.done],
        "seconds": progress.seconds,
        "guard": progress.guard.facts,
        "python_random": random.getstate(),
    }
    tensors[_STATE] = torch.frombuffer(bytearray(json.dumps(state).encode()), dtype=torch.uint8)
    save_tensors(path, tensors)


def load_checkpoint(
    path: Path, weights: TrainedWeights, optimiser: torch.optim.Optimizer
) -> Checkpoint:
    """Put weights, optimiser and random states back as `save_checkpoint` found them.

    Raises:
        InputError: If the file is damaged or belongs to another selection.
    """
    tensors = load_tensors(path)
    masters = _below("master/", tensors)
    if set(masters) != set(weights.names):
        raise InputError(f"{path} holds other parameters than this arm trains; it can't be resumed")
    weights.restore(masters)
    for name, master in zip(weights.names, weights.masters, strict=True):
        optimiser.state[master] = _moments(name, master, tensors)
    torch.set_rng_state(tensors["random/cpu"])
    if "random/cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random/cuda"])
    state = json.loads(bytes(tensors[_STATE].tolist()).decode())
    random.setstate(_as_tuples(state["python_random"]))
    done = tuple(StepResult(**row) for row in state["done"])
    guard = GuardState(state.get("guard", {}), _below("guard/", tensors))
    return Checkpoint(done, state["seconds"], guard)


def _moments(name: str, master: Tensor, tensors: dict[str, Tensor]) -> dict[str, Any]:
    moments: dict[str, Any] = {}
    for key, value in tensors.items():
        kind, _, rest = key.partition("/")
        moment, _, owner = rest.partition("/")
        if kind == "optimiser" and owner == name:
            # A whole number is a count that was no tensor: bitsandbytes' step.
            count = value.ndim == 0 and not value.is_floating_point()
            moments[moment] = value.item() if count else value.to(master.device)
    return moments


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): tensor
        for key, tensor in tensors.items()
        if key.startswith(prefix)
    }


def _as_tuples(value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_as_tuples(item) for item in value)
    return value
