"""Drift on a few texts at a time, with a gradient: what a model can be held back by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from narrowtune.data.batching import collate
from narrowtune.models.generation import evaluation_mode
from narrowtune.models.supervised import predicting, supervised_logits
from narrowtune.probes.distances import kl_divergence
from narrowtune.probes.gauge import Gauge, Measure
from narrowtune.probes.reference import Reference

TEXTS_PER_STEP = 8
"""A quarter of a usual batch: enough for one text of each of eight tasks."""

Text = tuple[Reference, int]
"""A task and the place of one of its texts."""


@dataclass(frozen=True)
class Anchor:
    """Some texts of each of several tasks, a few for every step: in turn from each of them.

    Over a round of steps every text comes once, those of a task with fewer texts again from its
    first. What the base expects in them is what the references remember: no second model.

    Attributes:
        places: Which texts of each task; at least one.
        measure: `kl` or `reverse_kl`.
        size: Texts of a step, fewer where the tasks could not share them evenly.
    """

    places: Sequence[tuple[Reference, Sequence[int]]]
    measure: Measure
    size: int = TEXTS_PER_STEP

    def drift(self, number: int, model: nn.Module) -> Tensor:
        """The mean over the texts of step `number`, from 0: nats per token, differentiable.

        Dropout is off, as when a gauge is read.
        """
        chosen = self.texts(number)
        rows = [reference.encoded[place] for reference, place in chosen]
        device = next(model.parameters()).device
        batch = collate(rows, chosen[0][0].processing, padding_side="right").to(device)
        with evaluation_mode(model):
            logits = supervised_logits(model, batch.inputs, predicting(batch.supervised))
        tuned = logits.float().log_softmax(dim=-1)  # [positions, vocabulary]
        base = torch.cat([reference.of_base(place) for reference, place in chosen]).to(device)
        p, q = (base, tuned) if self.measure == "kl" else (tuned, base)
        of_texts = torch.split(kl_divergence(p, q), [row.supervised_tokens for row in rows])
        return torch.stack([one.mean() for one in of_texts]).mean()

    def texts(self, number: int) -> Sequence[Text]:
        """Those of one step."""
        tasks = len(self.places)
        size = self.size // tasks * tasks or self.size  # each task the same number of times
        start = number % -(-len(self._round) // size) * size
        return self._round[start : start + size]

    @cached_property
    def _round(self) -> Sequence[Text]:
        return list(_in_turn(self.places))


def anchors(gauge: Gauge) -> tuple[Anchor, Anchor]:
    """The texts that a gauge steers by, in two: those to be held back by, and those to read.

    What is held back by is learned like any training text, so drift on it says little.
    """
    pulling, reading = (
        [(one, halves(len(one.encoded))[part]) for one in gauge.steering] for part in (0, 1)
    )
    return Anchor(pulling, gauge.measure), Anchor(reading, gauge.measure)


def halves(texts: int) -> tuple[range, range]:
    """The places of a task's texts to be held back by, and of those to read; a single one twice."""
    half = (texts + 1) // 2
    return range(half), range(half, texts) if texts > 1 else range(texts)


def _in_turn(tasks: Sequence[tuple[Reference, Sequence[int]]]) -> Iterator[Text]:
    for turn in range(max(len(places) for _, places in tasks)):
        for reference, places in tasks:
            yield reference, places[turn % len(places)]
