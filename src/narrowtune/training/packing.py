"""Micro-batches whose samples share their start, or lie where padding would; the same loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrowtune.data.batching import Batch, collate
from narrowtune.data.encoding import Encoded
from narrowtune.data.model_side import ModelSide
from narrowtune.data.sharing import Limits, Row, lay_out
from narrowtune.errors import InputError
from narrowtune.models.generation import evaluating
from narrowtune.models.packed import (
    base_model,
    block_mask,
    by_segments,
    longest_packed,
    packed_positions,
    packing_problem,
)
from narrowtune.models.prompt_cache import stored_tensors_kept
from narrowtune.models.quantized_linear import compute_dtype
from narrowtune.training.loop import answer_logits

# How far a sample's loss, in nats per token, may be off on trial; in half precision more.
TOLERANCE = 1e-4
TRIED = 4  # samples


class Packing:
    """Makes packed batches for one model; stands where `collate` does.

    What cannot be read off a config is tried: a few samples, the first with images and the first
    without, are scored packed and alone.

    Args:
        model: A transformers model with an output head.
        processing: Its image processor and padding token.
        limits: What may lie in one sequence.

    Raises:
        InputError: The model cannot read several samples in one sequence.
    """

    def __init__(
        self, model: nn.Module, processing: ModelSide, limits: Limits | None = None
    ) -> None:
        self.model = base_model(model)
        self.processing = processing
        if (problem := packing_problem(self.model)) is not None:
            raise InputError(f"samples of {processing.name} cannot be packed: {problem}")
        self._asked = limits or Limits()
        self._tried: set[tuple[bool, bool, bool]] = set()

    @property
    def limits(self) -> Limits:
        """What may lie in one sequence, the way the model attends at present."""
        ends = [self._asked.longest, longest_packed(self.model)]
        longest = min((end for end in ends if end is not None), default=None)
        return replace(self._asked, longest=longest, by_segments=by_segments(self.model))

    def __call__(self, rows: Sequence[Encoded]) -> Batch:
        """The samples as one packed batch on the CPU; as `collate` has them if none lie together.

        Its `rows` are the samples in the order their taught tokens come, row by row of
        `supervised`; which is another order than they were given in.

        Raises:
            InputError: A sample is too long, or on trial the model's loss was another.
        """
        layout = self._checked(rows)
        if len(layout) == len(rows):
            return collate(rows, self.processing, padding_side="right")
        return self._batch(layout)

    def check(self, rows: Sequence[Encoded]) -> None:
        """Try such samples now, instead of when the first of them are made a batch.

        Raises:
            InputError: A sample is too long, or on trial the model's loss was another.
        """
        self._checked(rows)

    def _checked(self, rows: Sequence[Encoded]) -> tuple[Row, ...]:
        """How the samples lie, once each kind of their rows has been tried."""
        layout = lay_out(rows, self.processing.image_token_id, self.limits)
        if len(layout) < len(rows):
            for row in layout:
                if (kind := (*_kind(row), self.limits.by_segments)) not in self._tried:
                    self._try(row)
                    self._tried.add(kind)
        return layout

    def _batch(self, layout: Sequence[Row]) -> Batch:
        width = max(map(len, layout))
        input_ids = torch.full((len(layout), width), self.processing.pad_token_id)
        supervised = torch.zeros_like(input_ids, dtype=torch.bool)
        for number, row in enumerate(layout):
            input_ids[number, : len(row)] = torch.tensor(row.ids)
            supervised[number, : len(row)] = torch.tensor(row.supervised)
        # One sample of each tree, in a batch of their own: whose images, and which positions.
        ones = [tree.longest for row in layout for tree in row.trees]
        alone = collate(ones, self.processing, padding_side="right").inputs
        types = self.processing.token_type_inputs(input_ids)
        texts = {"input_ids", "attention_mask", *types}
        places = [row.places for row in layout]
        samples = tuple(sample for row in layout for sample in row.samples)
        return Batch(
            inputs={
                "input_ids": input_ids,
                "attention_mask": block_mask(self.model, places, width),
                "position_ids": packed_positions(self.model, alone, _whereabouts(layout)),
                **types,
                **{name: tensor for name, tensor in alone.items() if name not in texts},
            },
            supervised=supervised,
            tokens=sum(map(len, layout)),
            supervised_tokens=sum(sample.supervised_tokens for sample in samples),
            rows=samples,
        )

    def _try(self, row: Row) -> None:
        """Score some of a row's samples both ways.

        Raises:
            InputError: They differ, or the model fails.
        """
        few = lay_out(_few(row), self.processing.image_token_id, self.limits)
        try:
            packed = self._batch(few)
            alone = collate(packed.rows, self.processing, padding_side="right")
            off = max(_apart(self.model, packed, alone), default=0.0)
        except Exception as error:  # whatever a class raises that knows no such masks or positions
            raise InputError(
                f"samples of {self.processing.name} cannot be packed: {type(self.model).__name__}"
                f" fails on trial with {type(error).__name__}: {error}; train it unpacked"
            ) from error
        if not off <= _tolerance(self.model):
            raise InputError(
                f"samples of {self.processing.name} cannot be packed: on trial the loss of one of"
                f" them was off by {off:.2g} nats per token, so something in"
                f" {type(self.model).__name__} passes from sample to sample, or does not see what"
                " it should; train it unpacked"
            )


def _kind(row: Row) -> tuple[bool, bool]:
    """Whether a row shows images, and whether it has several samples: what classes differ in."""
    return any(tree.images for tree in row.trees), len(row.samples) > 1


def _few(row: Row) -> list[Encoded]:
    """A row's first samples, with images and without in turns."""
    shown = [sample for sample in row.samples if sample.example.images]
    others = [sample for sample in row.samples if not sample.example.images]
    turns = (sample for pair in zip_longest(shown, others) for sample in pair)
    return [sample for sample in turns if sample is not None][:TRIED]


def _whereabouts(layout: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """For each packed token its tree, and how many tokens of its sample stand before it.

    Both [rows, width]; 0 on padding.
    """
    width = max(map(len, layout))
    tree = torch.zeros(len(layout), width, dtype=torch.long)
    depth = torch.zeros_like(tree)
    number = 0
    for at, row in enumerate(layout):
        for start, one in zip(row.starts, row.trees, strict=True):
            tree[at, start : start + len(one)] = number
            number += 1
        for places in row.places:
            depth[at, list(places)] = torch.arange(len(places))
    return tree, depth


def _apart(model: nn.Module, packed: Batch, alone: Batch) -> Iterator[float]:
    """How far each sample's mean loss is from that of the sample alone, in nats per token."""
    device = next(model.parameters()).device
    lengths = [sample.supervised_tokens for sample in packed.rows]
    with evaluating(model), stored_tensors_kept(model):
        both = [_losses(model, batch.to(device)) for batch in (packed, alone)]
    parts = [torch.split(losses, lengths) for losses in both]
    for one, other in zip(*parts, strict=True):
        if len(one):
            yield abs(float(one.mean() - other.mean()))


def _losses(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(*answer_logits(model, batch), reduction="none")


def _tolerance(model: nn.Module) -> float:
    """Half the digits of the dtype, in half precision."""
    dtype = compute_dtype(model)
    return TOLERANCE if dtype.itemsize >= 4 else float(torch.finfo(dtype).eps ** 0.5)
