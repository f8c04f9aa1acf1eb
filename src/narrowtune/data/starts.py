"""Prompts that start alike, laid out so that a model reads their common start once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from narrowtune.data.batching import Batch
from narrowtune.data.encoding import Encoded
from narrowtune.data.sharing import Start

# A trial answers three prompts both ways, which fewer hardly earn back.
FEWEST = 12


@dataclass(frozen=True)
class Branches:
    """Prompts of a batch, by the starts that they go on from.

    Attributes:
        inputs: The whole prompts, left-padded, without images: input_ids, attention_mask [B, T].
        of: Each prompt's start, by its row in the batch of starts: [B].
        ids: What follows the start, the prompt's last token left out, right-padded: [B, t].
        real: Bool, [B, t]; False on padding.
    """

    inputs: dict[str, Tensor]
    of: Tensor
    ids: Tensor
    real: Tensor

    def to(self, device: torch.device | str) -> Branches:
        """The same on another device."""
        moved = {name: tensor.to(device) for name, tensor in self.inputs.items()}
        return Branches(moved, *(one.to(device) for one in (self.of, self.ids, self.real)))


@dataclass
class Starts:
    """Batches of starts, each with the prompts that go on from them.

    Attributes:
        prompts: The whole prompts, in file order.
        starts: Their starts.
        read: Left-padded batches of those, each with the places of its rows in `starts`.
        batch_size: Prompts at once.
        pad: The filler token.
        tried: What trials told, by the kind of model.
    """

    prompts: Sequence[Encoded]
    starts: Sequence[Start]
    read: Iterable[tuple[list[int], Batch]]
    batch_size: int
    pad: int
    tried: dict[str, bool] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[Batch, list[tuple[list[int], Branches]]]]:
        """Each batch of starts; of each the prompts behind it, with their places."""
        for numbers, batch in self.read:
            rows = [
                (row, place)
                for row, number in enumerate(numbers)
                for place in self.starts[number].places
            ]
            size = self.batch_size
            parts = [rows[first : first + size] for first in range(0, len(rows), size)]
            yield batch, [([place for _, place in part], self._branches(part)) for part in parts]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(map(len, self.prompts))

    def tried_on(self, image_token: int | None) -> list[Start]:
        """Few prompts that show what all would: the longest, the shortest of its start, another.

        So a start is padded, what follows is padded, and a start branches. It ends with an image if
        some start does: behind one, positions on several axes don't just go on by one.
        """

        def shows(start: Start) -> tuple[bool, bool, int]:
            ids = self.prompts[start.places[0]].input_ids
            longest = max(len(self.prompts[place]) for place in start.places)
            return len(start.places) > 1, ids[start.tokens - 1] == image_token, longest

        first = max(self.starts, key=shows)
        by_length = sorted(first.places, key=lambda place: len(self.prompts[place]))
        others = [start for start in self.starts if start is not first]
        third = sorted(others, key=lambda start: start.tokens)[:1]
        pair = replace(first, places=(by_length[-1], by_length[0]))
        return [pair, *(replace(start, places=start.places[:1]) for start in third)]

    @cached_property
    def _begun(self) -> dict[int, int]:
        """Tokens of each prompt's start."""
        return {place: start.tokens for start in self.starts for place in start.places}

    def _branches(self, rows: Sequence[tuple[int, int]]) -> Branches:
        whole = [torch.tensor(self.prompts[place].input_ids) for _, place in rows]
        tails = [ids[self._begun[place] : -1] for ids, (_, place) in zip(whole, rows, strict=True)]
        ids, mask = self._padded(whole, "left")
        own, real = self._padded(tails, "right")
        of = torch.tensor([row for row, _ in rows])
        return Branches({"input_ids": ids, "attention_mask": mask.long()}, of, own, real)

    def _padded(self, rows: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
        marks = [torch.ones(len(row), dtype=torch.bool) for row in rows]
        ids = pad_sequence(rows, batch_first=True, padding_value=self.pad, padding_side=side)
        return ids, pad_sequence(marks, batch_first=True, padding_side=side)


def beginning(prompt: Encoded, tokens: int) -> Encoded:
    """The prompt's first tokens, its images among them."""
    ids, taught = prompt.input_ids[:tokens], prompt.supervised[:tokens]
    return replace(prompt, input_ids=ids, supervised=taught, prompt_length=tokens)
