"""The training loop, seen whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrowtune.engine import Engine
from narrowtune.errors import NarrowTuneError
from narrowtune.models.last_layer import read_only_at
from narrowtune.models.supervised import predicting, supervised_logits
from narrowtune.training.weights import TrainedWeights


class Taught(Protocol):
    """What the loop needs of a sample."""

    @property
    def supervised_tokens(self) -> int:
        """How many of its tokens are taught."""


class MicroBatch(Protocol):
    """What the loop needs of a collated micro-batch."""

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Keyword arguments of the model's forward; `input_ids` is [batch, tokens]."""

    @property
    def supervised(self) -> Tensor:
        """Bool, [batch, tokens]: the answer tokens, which alone are learned."""

    @property
    def rows(self) -> Sequence[Taught]:
        """The samples in the order of their taught tokens, the same objects whenever they come."""


class Objective(Protocol):
    """What a micro-batch is learned by."""

    def __call__(self, model: nn.Module, batch: MicroBatch, /) -> tuple[Tensor, Tensor]:
        """The loss that is descended, and the one that is told: sums over supervised tokens."""


class Anchor(Protocol):
    """What a step adds to its loss, beyond what its samples teach."""

    def __call__(self, model: nn.Module, /) -> Tensor | None:
        """In nats, the same in every process; None for nothing."""


@dataclass(frozen=True)
class Step:
    """One optimiser step's work: its micro-batches, made when asked for, and their weight.

    `anchor` adds to the gradient, not to the loss that is told; so does what `objective` has beyond
    the labels.
    """

    micro_batches: Sequence[Callable[[], MicroBatch]]
    supervised_tokens: int
    learning_rate: float
    max_grad_norm: float
    anchor: Anchor
    objective: Objective


@dataclass(frozen=True)
class StepResult:
    """What one optimiser step did; `loss` is the mean in nats per supervised token."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float


class Abandoned(NarrowTuneError):
    """A stage was given up: what it has trained so far is of no use.

    Args:
        reason: Why.
        step: The step it was seen at, from 1.
    """

    def __init__(self, reason: str, step: int) -> None:
        self.reason, self.step = reason, step
        super().__init__(f"{reason} at step {step}")


class Diverged(Abandoned):
    """The loss or the gradient is no longer a number; the weights are those of the step before."""


def teach(
    model: nn.Module,
    weights: TrainedWeights,
    optimiser: torch.optim.Optimizer,
    steps: Iterable[tuple[int, Step]],
    engine: Engine,
    on_step: Callable[[StepResult], None],
) -> None:
    """Run the steps: batch, loss, backward, clip, step, record.

    The loss of a step is the sum over all its supervised tokens divided by their number, so
    how the batch is cut into micro-batches and processes does not change the gradient.

    Args:
        model: The model.
        weights: Its trained weights; nothing else moves.
        optimiser: Over `weights.masters`.
        steps: Numbered steps, from 0 or from where a checkpoint left.
        engine: Devices and processes.
        on_step: Told of every finished step; may raise to end the stage between two steps.

    Raises:
        Diverged: When the loss or the gradient norm is not finite, before anything is changed.
    """
    for number, step in steps:
        loss = torch.zeros((), device=engine.device)
        for make in step.micro_batches:
            learned, told = step.objective(model, make())
            engine.backward(learned / step.supervised_tokens)
            weights.collect()
            loss += told.detach() / step.supervised_tokens
        if (pull := step.anchor(model)) is not None:
            engine.backward(pull / engine.processes)
            weights.collect()
        engine.sum_gradients(weights.masters)
        mean = float(engine.sum(loss))
        norm = weights.clip(step.max_grad_norm)
        if not (math.isfinite(mean) and math.isfinite(norm)):
            raise Diverged(f"loss {mean} and gradient norm {norm}", number + 1)
        for group in optimiser.param_groups:
            group["lr"] = step.learning_rate
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        weights.write_back()
        on_step(StepResult(number + 1, mean, step.learning_rate, norm))


def labels_alone(model: nn.Module, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """The objective of plain training: the cross-entropy of the labels."""
    loss = answer_loss(model, batch)
    return loss, loss


def answer_loss(model: nn.Module, batch: MicroBatch) -> Tensor:
    """Summed cross-entropy, in nats, over the batch's supervised tokens."""
    return F.cross_entropy(*answer_logits(model, batch), reduction="sum")


def answer_logits(model: nn.Module, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """Logits where supervised tokens are predicted, fp32 [tokens, vocabulary], and these tokens."""
    predicts = predicting(batch.supervised)
    with read_only_at(predicts):
        logits = supervised_logits(model, batch.inputs, predicts)
    return logits.float(), batch.inputs["input_ids"][batch.supervised]
