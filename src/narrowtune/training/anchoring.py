"""Holding a stage's weights, or its answers, to where they were: pulls of a constant weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from narrowtune.models.generation import evaluation_mode
from narrowtune.training.guard import Unguarded
from narrowtune.training.loop import MicroBatch, answer_loss
from narrowtune.training.weights import TrainedWeights


class WeightAnchor(Unguarded):
    """Adds weight / 2 x sum of F (w - w0)^2 over all trained entries.

    With F = 1 and w0 the base it is L2-SP (arXiv 1802.01483, section 3); with F the diagonal of the
    Fisher information and w0 the weights as the stage began it is elastic weight consolidation
    (arXiv 1612.00796, equation 3).

    Args:
        start: w0 by parameter name.
        weight: Nats of loss per unit of distance.
        importance: F by parameter name; None weighs all entries alike.
    """

    def __init__(
        self,
        start: Mapping[str, Tensor],
        weight: float,
        importance: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._start, self._weight, self._importance = start, weight, importance
        self._weights: TrainedWeights | None = None

    def begin(self, weights: TrainedWeights) -> None:
        """Its gradient goes to the masters, in fp32: in bfloat16 small distances would be lost."""
        self._weights = weights

    def pull(self, number: int, model: nn.Module) -> Tensor | None:
        """The penalty where the weights are now; nothing at weight 0."""
        if not self._weight or self._weights is None:
            return None
        parts = [
            self._distance(name, master)
            for name, master in zip(self._weights.names, self._weights.masters, strict=True)
        ]
        return self._weight / 2 * torch.stack(parts).sum()

    def _distance(self, name: str, master: Tensor) -> Tensor:
        squares = (master - self._start[name].to(master.device, master.dtype)).square()
        if self._importance is not None:
            squares = squares * self._importance[name].to(master.device)
        return squares.sum()


class AnswerAnchor(Unguarded):
    """Adds drift on a few texts, as `read` gives it with a gradient, times a constant."""

    def __init__(self, read: Callable[[int, nn.Module], Tensor], weight: float) -> None:
        self._read, self._weight = read, weight

    def pull(self, number: int, model: nn.Module) -> Tensor | None:
        """Nothing at weight 0."""
        return self._weight * self._read(number, model) if self._weight else None


def fisher_diagonal(
    model: nn.Module,
    named: Sequence[tuple[str, nn.Parameter]],
    samples: Sequence[Callable[[], MicroBatch]],
) -> dict[str, Tensor]:
    """The diagonal of the empirical Fisher information: mean squared gradient, sample by sample.

    Of the log-likelihood of the samples' own answers, not of answers drawn from the model: what
    most implementations of arXiv 1612.00796 compute, and not the same (arXiv 1905.12558).

    Args:
        model: The model; left without gradients, dropout off meanwhile.
        named: The parameters that it is wanted for.
        samples: Each makes a batch of one sample.

    Returns:
        By name, fp32 and as large as the parameter; zeros where there are no samples.
    """
    found = {name: torch.zeros_like(one, dtype=torch.float32) for name, one in named}
    with evaluation_mode(model):
        for make in samples:
            torch.autograd.backward(answer_loss(model, make()))
            for name, parameter in named:
                if parameter.grad is not None:
                    found[name] += parameter.grad.float().square() / len(samples)
                    parameter.grad = None
    return {name: values.detach() for name, values in found.items()}
