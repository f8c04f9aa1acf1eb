"""Questions with their choices, laid out so that a prompt need be read only once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import takewhile

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from narrowtune.data.batches import Batches
from narrowtune.data.encoding import Encoded
from narrowtune.data.model_side import ModelSide

# A trial scores three choices both ways, which fewer questions hardly earn back.
FEWEST = 4


class Questions:
    """Encoded choices, whole, and the prompts that those of one question share.

    The shared prompt is the longest common start of a question's sequences: where a tokenizer
    merges the prompt's end with the choice it is shorter than the prompt. It also leaves the token
    before the first scored one to the choices, so that every needed logit is in their pass.

    Args:
        encoded: What `encode_choices` gave for each question, in file order.
        processing: The model's image processor and padding token.
        batch_size: Sequences (choices) per batch.
    """

    def __init__(
        self, encoded: Sequence[Sequence[Encoded]], processing: ModelSide, batch_size: int
    ) -> None:
        self.encoded = tuple(tuple(choices) for choices in encoded)
        self.processing = processing
        self.batch_size = batch_size

    @cached_property
    def sequences(self) -> Batches:
        """Every choice with its whole prompt, right-padded, questions in order."""
        flat = [choice for choices in self.encoded for choice in choices]
        return Batches(flat, self.processing, self.batch_size, "right")

    @cached_property
    def prompts(self) -> Batches | None:
        """Every question's shared prompt, left-padded; None if some question shares none."""
        token = self.processing.image_token_id
        shared = [_shared_prompt(choices, token) for choices in self.encoded]
        found = [prompt for prompt in shared if prompt is not None]
        if len(found) < len(shared):
            return None
        rows = [len(choices) for choices in self.encoded]
        return Batches(found, self.processing, self.batch_size, "left", rows)

    def continuations(
        self, keys: Sequence[tuple[int, int]], device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What follows the shared prompts, right-padded: tokens, whether real, whether scored.

        Args:
            keys: (question, choice) of each row.
            device: Where the tensors shall lie.
        """
        assert self.prompts is not None, "some question shares no prompt"
        starts = [len(self.prompts.encoded[question]) for question, _ in keys]
        whole = [self.encoded[question][choice] for question, choice in keys]
        tails = list(zip(whole, starts, strict=True))
        pad = self.processing.pad_token_id
        ids = _padded([torch.tensor(one.input_ids[start:]) for one, start in tails], pad)
        real = _padded([torch.ones(len(one) - start, dtype=torch.bool) for one, start in tails], 0)
        scored = _padded([torch.tensor(one.supervised[start:]) for one, start in tails], 0)
        return ids.to(device), real.to(device), scored.to(device)

    @cached_property
    def trial(self) -> Questions | None:
        """Few choices that show what all would: of the longest question two, of the shortest one.

        So a prompt is padded and another branches. None where trying costs more than it can save.
        """
        if len(self.encoded) < FEWEST:
            return None
        shortest, *_, longest = sorted(self.encoded, key=_tokens)
        choices = sorted(longest, key=len)
        pair = (choices[0], choices[-1])
        return Questions((pair, (max(shortest, key=len),)), self.processing, self.batch_size)

    @property
    def longest(self) -> int:
        """Tokens of the longest choice with its prompt."""
        return max(_tokens(choices) for choices in self.encoded)


def _tokens(choices: Sequence[Encoded]) -> int:
    return max(map(len, choices))


def _padded(rows: list[Tensor], filler: int) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=filler)


def _shared_prompt(choices: Sequence[Encoded], image_token: int | None) -> Encoded | None:
    """What all of a question's choices begin with; None if nothing, or not all of its images."""
    together = zip(*(choice.input_ids for choice in choices), strict=False)
    common = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, together))
    cut = min(common, *(_first_scored(choice) - 1 for choice in choices))
    # The prompt ends with a word: only behind one do positions go on by one on every axis.
    if cut < 1 or (image_token is not None and image_token in choices[0].input_ids[cut - 1 :]):
        return None
    first = choices[0]
    ids, taught = first.input_ids[:cut], first.supervised[:cut]
    return replace(first, input_ids=ids, supervised=taught, prompt_length=cut)


def _first_scored(choice: Encoded) -> int:
    return next((place for place, scored in enumerate(choice.supervised) if scored), len(choice))
