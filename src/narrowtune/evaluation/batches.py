"""A task's prompts as batches of like length, made once and kept while they are small."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from narrowtune.data.batching import Batch, collate
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
        padding_side: "left" to generate, "right" to score.
    """

    def __init__(
        self,
        encoded: Sequence[Encoded],
        processing: ModelSide,
        batch_size: int,
        padding_side: Literal["left", "right"],
    ) -> None:
        self.encoded = tuple(encoded)
        self.processing = processing
        self.padding_side: Literal["left", "right"] = padding_side
        order = sorted(range(len(encoded)), key=lambda index: -len(encoded[index]))
        self.places = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        self._kept: dict[int, Batch] = {}
        self._kept_bytes = 0

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[tuple[list[int], Batch]]:
        for number, places in enumerate(self.places):
            yield places, self._kept.get(number) or self._make(number, places)

    def _make(self, number: int, places: list[int]) -> Batch:
        rows = [self.encoded[place] for place in places]
        batch = collate(rows, self.processing, padding_side=self.padding_side)
        size = sum(tensor.nbytes for tensor in batch.inputs.values())
        if self._kept_bytes + size <= KEPT_BYTES:
            self._kept[number] = batch
            self._kept_bytes += size
        return batch
