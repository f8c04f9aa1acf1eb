"""The optimisers a stage can be trained with: AdamW, with its moments in 32 bits or in 8."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import torch

from narrowtune.errors import InputError
from narrowtune.training.weights import TrainedWeights

EIGHT_BIT = "adamw_8bit"

# Blocks of 256 numbers share an fp32 scale, in each of two moments; tensors below this stay fp32.
_BLOCK, _SMALLEST = 256, 4096
_STATE_BYTES = {"adamw": 2 * 4.0, EIGHT_BIT: 2 * (1 + 4 / _BLOCK)}


def optimiser_for(
    weights: TrainedWeights, optim: str, learning_rate: float, decay: float
) -> torch.optim.Optimizer:
    """AdamW (arXiv 1711.05101) over the masters alone; decay on weights, not on vectors or biases.

    Args:
        weights: What is trained.
        optim: `adamw`, or `adamw_8bit`: the same rule, its moments rounded to 8 bits, block by
            block, after every step (arXiv 2110.02861, section 2). Other weights come of it.
        learning_rate: Until the first step sets its own.
        decay: Of matrices.

    Raises:
        InputError: It needs a package that is not installed.
    """
    groups = weights.groups(decay)
    if optim == EIGHT_BIT:
        return _eight_bit(groups, learning_rate)
    # Fused: one pass over memory instead of one per operation.
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def state_bytes(optim: str) -> float:
    """What an optimiser keeps of each trained number, in bytes."""
    return _STATE_BYTES[optim]


def optimiser_notes(optims: Iterable[str], offloaded: bool) -> list[str]:
    """What a careful user wants to know of the optimisers of an arm's stages."""
    notes = []
    if EIGHT_BIT in optims:
        notes.append(
            f"optim {EIGHT_BIT} rounds AdamW's moments to 8 bits after every step: its weights are "
            "not those that adamw gives; compare it with arms trained the same way"
        )
    if offloaded:
        notes.append(
            "offload_optimizer: masters, gradients and moments lie in the machine's memory, where "
            "the optimiser's steps are taken; a run on a CPU has them there anyway"
        )
    return notes


def check_optimiser(optim: str) -> None:
    """Refuse an optimiser that is not there on this machine.

    Raises:
        InputError: Its package is not installed.
    """
    if optim == EIGHT_BIT and find_spec("bitsandbytes") is None:
        raise InputError(
            f"training.optim: {EIGHT_BIT} needs the package bitsandbytes, which is not installed: "
            "pip install 'narrowtune[8bit]'"
        )


def _eight_bit(groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
    check_optimiser(EIGHT_BIT)
    from bitsandbytes.optim import AdamW8bit

    class Apart(AdamW8bit):  # type: ignore[misc]
        """With tables of their own, 2 KB a tensor: a checkpoint holds no tensor twice."""

        def init_state(self, group: Any, p: Any, gindex: int, pindex: int) -> None:
            super().init_state(group, p, gindex, pindex)
            state = self.state[p]
            state |= {name: one.clone() for name, one in state.items() if name.startswith("qmap")}

    made: torch.optim.Optimizer = Apart(groups, lr=learning_rate, min_8bit_size=_SMALLEST)
    return made
