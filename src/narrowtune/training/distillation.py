"""Learning without forgetting: what a model answered before it was taught is distilled into it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrowtune.models.generation import evaluating
from narrowtune.training.loop import MicroBatch, answer_logits

Swapped = Sequence[tuple[nn.Parameter, Tensor]]
"""Trained parameters of the model, and the values that they have in the teacher."""


@dataclass
class Distillation:
    """The labels' cross-entropy plus, weighted, the divergence from a teacher's answers.

    weight x T^2 x KL(teacher || student), both softened by the temperature T, summed over the
    supervised positions and no others. Its gradient is that of the cross-entropy with the teacher's
    softened answers (arXiv 1606.09282, equations 2 to 4), times T^2, which keeps it at one scale
    whatever T is (arXiv 1503.02531, section 2).

    The teacher is the student with other values in the trained parameters, which for its forward
    change places with the student's: no second model, and nothing is copied.

    Attributes:
        teacher: The swapped values, on the parameters' own device.
        weight: Nats of loss per nat of divergence; at 0 the teacher is never asked.
        temperature: Softens both; 1 leaves them as they are.
        cache: What the teacher said of each sample, to be said again; None asks it anew each time.
    """

    teacher: Swapped
    weight: float
    temperature: float
    cache: Remembered | None = None

    def __call__(self, model: nn.Module, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """What is descended, and the labels' part of it, which is told."""
        taught = self._teacher_logits(model, batch) if self.weight else None
        logits, targets = answer_logits(model, batch)
        labels = F.cross_entropy(logits, targets, reduction="sum")
        if taught is None:
            return labels, labels
        softened = (logits / self.temperature).log_softmax(dim=-1)
        expected = (taught / self.temperature).log_softmax(dim=-1)
        apart = F.kl_div(softened, expected, reduction="sum", log_target=True)
        return labels + self.weight * self.temperature**2 * apart, labels

    def _teacher_logits(self, model: nn.Module, batch: MicroBatch) -> Tensor:
        if self.cache is None or not batch.supervised.any():  # none: a process that runs along
            return self._ask(model, batch)
        if (known := self.cache.of(batch)) is None:
            known = self._ask(model, batch)
            self.cache.keep(batch, known)
        return known

    def _ask(self, model: nn.Module, batch: MicroBatch) -> Tensor:
        # Before the student's forward: between it and its backward no weight may change places.
        with swapped(self.teacher), evaluating(model):
            return answer_logits(model, batch)[0]


@contextmanager
def swapped(pairs: Swapped) -> Iterator[None]:
    """Parameters with other values, for the time being; their own are not touched."""
    own = [parameter.data for parameter, _ in pairs]
    for parameter, values in pairs:
        parameter.data = values
    try:
        yield
    finally:
        for (parameter, _), values in zip(pairs, own, strict=True):
            parameter.data = values


@dataclass
class Remembered:
    """A teacher's logits by sample, on the CPU: 4 bytes x answer tokens x vocabulary for each.

    That is 0.6 MB a token for Qwen2.5. Read in another batch than the one that would ask for them,
    they may differ in their last bits.
    """

    _said: dict[int, Tensor] = field(default_factory=dict)

    def of(self, batch: MicroBatch) -> Tensor | None:
        """The batch's logits, None unless all of its samples are known."""
        rows = [self._said.get(id(row)) for row in batch.rows]
        found = [row for row in rows if row is not None]
        if not rows or len(found) < len(rows):
            return None
        return torch.cat(found).to(batch.supervised.device)

    def keep(self, batch: MicroBatch, logits: Tensor) -> None:
        """Remember what was said of a batch."""
        lengths = [row.supervised_tokens for row in batch.rows]
        for row, part in zip(batch.rows, torch.split(logits.cpu(), lengths), strict=True):
            self._said[id(row)] = part
