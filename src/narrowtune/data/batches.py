"""A task's prompts as batches of like length, made once and kept while they are small."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from narrowtune.data.batching import Batch, collate, feed_for
from narrowtune.data.encoding import Encoded
from narrowtune.data.model_side import ModelSide

# An experiment scores the same task on every arm after every stage; decoding its images each
# time takes longer than a small model's answers. Beyond this, batches are made afresh.
KEPT_BYTES = 64 * 2**20


class Batches:
    """Batches over `encoded`, longest first, each with the places its rows came from.

    Longest first, so that what doesn't fit into memory fails at once. Iterating again gives the
    same batches.

    Args:
        encoded: The prompts, in file order.
        processing: The model's image processor and padding token.
        batch_size: Rows per batch.
        padding_side: "left" to generate or to go on from, "right" to score.
        rows: How many rows each of `encoded` stands for, 1 unless given; what stands for more
            than a batch has is a batch of its own.
    """

    def __init__(
        self,
        encoded: Sequence[Encoded],
        processing: ModelSide,
        batch_size: int,
        padding_side: Literal["left", "right"],
        rows: Sequence[int] | None = None,
    ) -> None:
        self.encoded = tuple(encoded)
        self.processing = processing
        self.batch_size = batch_size
        self.padding_side: Literal["left", "right"] = padding_side
        self.places = list(self._grouped(rows or [1] * len(encoded)))
        self._kept: dict[int, Batch] = {}
        self._kept_bytes = 0

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[tuple[list[int], Batch]]:
        for number, places in enumerate(self.places):
            yield places, self._batch(number, [self.encoded[place] for place in places])

    def _grouped(self, rows: Sequence[int]) -> Iterator[list[int]]:
        group: list[int] = []
        for place in sorted(range(len(self.encoded)), key=lambda place: -len(self.encoded[place])):
            if group and sum(rows[member] for member in (*group, place)) > self.batch_size:
                yield group
                group = []
            group.append(place)
        if group:
            yield group

    def _batch(self, number: int, rows: Sequence[Encoded]) -> Batch:
        # What a feed answers for belongs to one model, and is made quickly: it is not kept here.
        if feed_for(rows, self.processing) is not None:
            return collate(rows, self.processing, padding_side=self.padding_side)
        return self._kept.get(number) or self._make(number, rows)

    def _make(self, number: int, rows: Sequence[Encoded]) -> Batch:
        batch = collate(rows, self.processing, padding_side=self.padding_side)
        size = sum(tensor.nbytes for tensor in batch.inputs.values())
        if self._kept_bytes + size <= KEPT_BYTES:
            self._kept[number] = batch
            self._kept_bytes += size
        return batch
