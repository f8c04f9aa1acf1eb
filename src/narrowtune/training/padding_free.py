"""Batches without padding, where padding would be much and the model takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice, zip_longest

from torch import nn

from narrowtune.data.batching import Batch, collate
from narrowtune.data.encoding import Encoded
from narrowtune.data.model_side import ModelSide
from narrowtune.data.sharing import Limits
from narrowtune.errors import InputError
from narrowtune.models.packed import base_model, by_segments
from narrowtune.training.packing import TRIED, Packing

# Share of a padded batch's tokens. Without any padding a sequence of all samples takes no longer
# than their padded batch, so this only keeps batches as they are that would gain little.
LEAST = 0.1


class PaddingFree:
    """Makes batches for one model; stands where `collate` does, and is it where padding is little.

    Which batches are written without padding hangs on the batch and on a trial with the data's
    first samples, never on the batches before: a resumed stage makes the same ones.

    Args:
        model: A transformers model with an output head. Unless it is `attending_by_segments`, all
            batches are padded.
        processing: Its image processor and padding token.
        rows: All that it will be taught.
        tell: Told why batches stay padded that need not be.
    """

    def __init__(
        self,
        model: nn.Module,
        processing: ModelSide,
        rows: Sequence[Encoded],
        tell: Callable[[str], None],
    ) -> None:
        self.processing = processing
        self._packing: Packing | None = None
        self._refused: set[bool] = set()
        if by_segments(base_model(model)) and _ever(rows):
            self._packing = Packing(model, processing, Limits(share=False))
            most = self._packing.limits.longest
            for few in _trials([row for row in rows if most is None or len(row) <= most]):
                self._try(self._packing, few, tell)

    def __call__(self, rows: Sequence[Encoded]) -> Batch:
        """The samples in one sequence without padding, or padded as `collate` has them."""
        if self._packing is not None and _much(rows) and _seeing(rows) not in self._refused:
            try:
                return self._packing(rows)
            except InputError:
                pass  # one of these samples cannot be packed
        return collate(rows, self.processing, padding_side="right")

    def _try(self, packing: Packing, few: Sequence[Encoded], tell: Callable[[str], None]) -> None:
        try:
            packing.check(few)
        except InputError as error:
            self._refused.add(_seeing(few))
            which = "batches with images" if _seeing(few) else "batches of text"
            tell(f"note: {which} keep their padding: {error}")


def _much(rows: Sequence[Encoded]) -> bool:
    """Whether much of the padded batch would be padding."""
    lengths = [len(row) for row in rows]
    return sum(lengths) <= (1 - LEAST) * len(lengths) * max(lengths)


def _ever(rows: Sequence[Encoded]) -> bool:
    """Whether any batch of these samples could have much padding."""
    lengths = [len(row) for row in rows]
    return min(lengths) < (1 - LEAST) * max(lengths)


def _seeing(rows: Sequence[Encoded]) -> bool:
    """Whether any sample shows images: batches with and without are tried for themselves."""
    return any(row.example.images for row in rows)


def _trials(rows: Sequence[Encoded]) -> list[list[Encoded]]:
    """First samples without images, and first ones with, among others where there are few."""
    texts = list(islice((row for row in rows if not row.example.images), TRIED))
    shown = list(islice((row for row in rows if row.example.images), TRIED))
    if shown:
        turns = (row for pair in zip_longest(shown, texts) for row in pair)
        shown = [row for row in turns if row is not None][:TRIED]
    return [few for few in (texts, shown) if len(few) > 1]
