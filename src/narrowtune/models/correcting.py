"""Corrections of a model's output while it answers: its weights stay as they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Correction(Protocol):
    """Changes the logits that an answer's next token is chosen by."""

    def __call__(self, said: Tensor, logits: Tensor, /) -> Tensor:
        """Corrected logits.

        Args:
            said: The tokens each row has answered so far: [rows, tokens].
            logits: Of the next one, float32: [rows, vocabulary].
        """


@dataclass(frozen=True)
class TokenOffsets:
    """A number added to each token's logit: one set for an answer's first token, one for the rest.

    Attributes:
        first: [vocabulary], float32.
        later: [vocabulary], float32.
    """

    first: Tensor
    later: Tensor

    def __call__(self, said: Tensor, logits: Tensor) -> Tensor:
        """As `Correction` does: every row is at the same token of its answer."""
        added = self.later if said.shape[1] else self.first
        return logits + added.to(logits.device)

    def at(self, logits: Tensor, first: Tensor) -> Tensor:
        """Corrected logits of any positions.

        Args:
            logits: [positions, vocabulary].
            first: Bool, [positions]: whether an answer's first token is predicted there.
        """
        both = torch.stack([self.later, self.first]).to(logits.device)
        return logits.float() + both[first.to(logits.device).long()]


class AnswerSpace:
    """Lets nothing be said but one of some answers.

    Greedy: the likeliest next token among those that begin or continue an answer.

    Args:
        answers: Each a sequence of tokens with its end.
    """

    def __init__(self, answers: Iterable[Sequence[int]]) -> None:
        self.answers = sorted({tuple(answer) for answer in answers})
        self._next: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for answer in self.answers:
            for place, token in enumerate(answer):
                self._next[answer[:place]].add(token)

    @property
    def longest(self) -> int:
        """Tokens of the longest answer, its end included."""
        return max(map(len, self.answers))

    def __call__(self, said: Tensor, logits: Tensor) -> Tensor:
        """As `Correction` does; a row whose answer has ended is left as it is."""
        corrected = torch.full_like(logits, -torch.inf)
        for row, tokens in enumerate(said.tolist()):
            allowed = self._next.get(tuple(tokens))
            if allowed is None:
                corrected[row] = logits[row]
                continue
            ids = torch.tensor(sorted(allowed), device=logits.device)
            corrected[row, ids] = logits[row, ids]
        return corrected
