"""How likely a model finds each choice of a question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from narrowtune.data.encoding import Encoded, encode
from narrowtune.data.example import Example, Message, TextPart
from narrowtune.data.model_side import ModelSide
from narrowtune.errors import InputError, RunFailed
from narrowtune.evaluation.batches import Batches
from narrowtune.evaluation.generation import evaluating
from narrowtune.models.supervised import predicting, supervised_logits


class Scored(ModelSide, Protocol):
    """What scoring asks of a model's processing."""

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer."""


@dataclass(frozen=True)
class ChoiceScore:
    """One choice's log-likelihood (nats), summed over its tokens, and its two lengths.

    Attributes:
        text: The choice as written.
        total: Log-probability of the choice after the prompt, its end token left out.
        tokens: Tokens it was scored on.
    """

    text: str
    total: float
    tokens: int

    @property
    def per_character(self) -> float:
        """`total` over the choice's characters: what lm-eval's acc_norm compares."""
        return self.total / max(len(self.text.strip()), 1)

    @property
    def per_token(self) -> float:
        """`total` over the choice's tokens; depends on the tokenizer, so no score rests on it."""
        return self.total / max(self.tokens, 1)

    def to_dict(self) -> dict[str, str | float | int]:
        """As written into the per-sample record."""
        return {
            "text": self.text,
            "log_likelihood": self.total,
            "per_character": self.per_character,
            "per_token": self.per_token,
            "tokens": self.tokens,
        }


def encode_choices(example: Example, processing: Scored) -> list[Encoded]:
    """The example once per choice, the choice in the answer's place and it alone marked.

    The choice is tokenized as it would be taught, in one piece with its prompt.

    Raises:
        InputError: It is too long, or nothing stands before the choice; with its line.
    """
    return [_encode_choice(example, choice, processing) for choice in example.choices]


def score_choices(
    model: nn.Module, sequences: Batches, counts: Sequence[int]
) -> list[list[ChoiceScore]]:
    """The scores of each example's choices, in file order.

    Args:
        model: A transformers model with an output head; left in the modes it came in.
        sequences: Right-padded batches over what `encode_choices` gave, examples in order.
        counts: Choices of each example.

    Raises:
        RunFailed: The model answers with NaN.
    """
    device = next(model.parameters()).device
    scores: dict[int, ChoiceScore] = {}
    with evaluating(model):
        for places, batch in sequences:
            batch = batch.to(device)
            totals = _log_likelihoods(model, batch.inputs, batch.supervised)
            for place, total in zip(places, totals.tolist(), strict=True):
                encoded = sequences.encoded[place]
                text = encoded.example.answer
                scores[place] = ChoiceScore(text, total, encoded.supervised_tokens)
    if any(score.total != score.total for score in scores.values()):
        raise RunFailed("the model's log-likelihoods are NaN: its weights are damaged")
    ordered = iter(scores[place] for place in range(len(scores)))
    return [[next(ordered) for _ in range(count)] for count in counts]


def _log_likelihoods(model: nn.Module, inputs: dict[str, Tensor], marked: Tensor) -> Tensor:
    """Sum over each row's marked tokens of their log-probability: [rows]."""
    logits = supervised_logits(model, inputs, predicting(marked))  # [marked, vocabulary]
    said = inputs["input_ids"][marked]  # [marked]
    # fp32 whatever the model's dtype: bf16 has three digits, too few to tell choices apart.
    logs = torch.log_softmax(logits.float(), dim=-1).gather(1, said[:, None]).squeeze(1)
    rows = torch.zeros(marked.shape[0], dtype=torch.float64, device=logs.device)
    return rows.index_add_(0, marked.nonzero()[:, 0], logs.double())


def _encode_choice(example: Example, choice: str, processing: Scored) -> Encoded:
    answer = Message("assistant", (TextPart(choice),))
    encoded = encode(replace(example, messages=(*example.prompt, answer)), processing)
    start, stop = encoded.prompt_length, len(encoded)
    if encoded.input_ids[-1] in processing.end_token_ids:
        stop -= 1
    if start == 0:
        raise InputError(f"{example.source}: nothing stands before the choices to score them after")
    marked = tuple(
        taught and start <= place < stop for place, taught in enumerate(encoded.supervised)
    )
    return replace(encoded, supervised=marked)
