"""A task's prompts as batches of like length, made once and kept while they are small."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import count
from typing import Literal

from narrowtune.data.batching import Batch, collate, feed_for
from narrowtune.data.encoding import Encoded
from narrowtune.data.model_side import ModelSide
from narrowtune.data.sharing import Start, common_starts, pays
from narrowtune.data.starts import FEWEST, Starts, beginning

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

    @cached_property
    def starts(self) -> Starts | None:
        """The same prompts by their common starts, where reading those once pays."""
        if self.padding_side != "left" or len(self.encoded) < FEWEST:
            return None
        found = common_starts(self.encoded, self.processing.image_token_id)
        return self._behind(found) if pays(found, self.encoded) else None

    def trial(self) -> tuple[Batches, Starts]:
        """A few of the prompts, whole and by their starts."""
        assert self.starts is not None, "no start is worth reading once"
        tried = self.starts.tried_on(self.processing.image_token_id)
        few = [self.encoded[place] for start in tried for place in start.places]
        number = count()
        own = [replace(start, places=tuple(next(number) for _ in start.places)) for start in tried]
        batches = Batches(few, self.processing, self.batch_size, self.padding_side)
        return batches, batches._behind(own)

    def _behind(self, starts: Sequence[Start]) -> Starts:
        begun = [beginning(self.encoded[start.places[0]], start.tokens) for start in starts]
        rows = [len(start.places) for start in starts]
        read = Batches(begun, self.processing, self.batch_size, "left", rows)
        return Starts(self.encoded, starts, read, self.batch_size, self.processing.pad_token_id)

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
