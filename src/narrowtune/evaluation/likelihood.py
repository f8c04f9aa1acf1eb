"""How likely a model finds each choice of a question."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from narrowtune.data.encoding import Encoded, encode
from narrowtune.data.example import Example, Message, TextPart
from narrowtune.data.model_side import ModelSide
from narrowtune.errors import InputError, RunFailed
from narrowtune.evaluation.questions import Questions
from narrowtune.models.correcting import TokenOffsets
from narrowtune.models.generation import evaluating
from narrowtune.models.prompt_cache import (
    ReadPrompts,
    steady_length,
    stored_tensors_kept,
    takes_positions,
)
from narrowtune.models.quantized_linear import compute_dtype
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
    model: nn.Module, questions: Questions, offsets: TokenOffsets | None = None
) -> list[list[ChoiceScore]]:
    """The scores of each question's choices, in file order.

    A prompt is read once for all its choices where the model can share it: its cache holds keys
    and values alone, and on a trial the scores are those of whole sequences. Otherwise each choice
    is scored with its prompt read anew.

    Args:
        model: A transformers model with an output head; left in the modes it came in.
        questions: Over what `encode_choices` gave.
        offsets: Added to the logits before probabilities are taken.

    Raises:
        RunFailed: The model answers with NaN.
    """
    with evaluating(model), stored_tensors_kept(model):
        totals = shared_totals if can_share(model, questions) else whole_totals
        found = totals(model, questions, offsets)
    if any(total != total for total in found):
        raise RunFailed("the model's log-likelihoods are NaN: its weights are damaged")
    left = iter(found)
    return [
        [ChoiceScore(one.example.answer, next(left), one.supervised_tokens) for one in choices]
        for choices in questions.encoded
    ]


def can_share(model: nn.Module, questions: Questions) -> bool:
    """Whether these questions' prompts can be read once for all choices, tried on a few."""
    trial, steady = questions.trial, steady_length(model)
    if trial is None or trial.prompts is None or questions.prompts is None:
        return False
    if steady is not None and questions.longest > steady:
        return False
    dtype = compute_dtype(model)
    # Three digits cannot tell a prompt that stands a few places off from rounding.
    if dtype.itemsize < 4 and not takes_positions(model):
        return False
    return _agree(model, trial, dtype)


def _agree(model: nn.Module, trial: Questions, dtype: torch.dtype) -> bool:
    try:
        shared = shared_totals(model, trial)
    except Exception:  # whatever a class raises that cannot go on with several tokens at once
        return False
    # Half the digits of the dtype for each token, whose errors add up as chance has it.
    tokens = [choice.supervised_tokens for choices in trial.encoded for choice in choices]
    most = [(torch.finfo(dtype).eps * count) ** 0.5 for count in tokens]
    found = zip(shared, whole_totals(model, trial), most, strict=True)
    return all(abs(one - other) <= allowed for one, other, allowed in found)


def whole_totals(
    model: nn.Module, questions: Questions, offsets: TokenOffsets | None = None
) -> list[float]:
    """Each choice's log-likelihood (nats) from a sequence of its own, in order."""
    device = next(model.parameters()).device
    found: dict[int, float] = {}
    for places, batch in questions.sequences:
        batch = batch.to(device)
        logits = supervised_logits(model, batch.inputs, predicting(batch.supervised))
        logits = _corrected(logits, batch.supervised, offsets)
        totals = _log_likelihoods(logits, batch.inputs["input_ids"], batch.supervised)
        found |= zip(places, totals.tolist(), strict=True)
    return [found[place] for place in range(len(found))]


def shared_totals(
    model: nn.Module, questions: Questions, offsets: TokenOffsets | None = None
) -> list[float]:
    """Each choice's log-likelihood (nats) behind a prompt read once, in order.

    Raises:
        TypeError: What the model keeps of a prompt cannot be shared.
    """
    assert questions.prompts is not None, "some question shares no prompt"
    device = next(model.parameters()).device
    found: dict[tuple[int, int], float] = {}
    for places, batch in questions.prompts:
        prompts = ReadPrompts(model, batch.to(device).inputs)
        rows = [
            (row, (place, number))
            for row, place in enumerate(places)
            for number in range(len(questions.encoded[place]))
        ]
        for start in range(0, len(rows), questions.batch_size):
            chosen = rows[start : start + questions.batch_size]
            ids, real, marked = questions.continuations([key for _, key in chosen], device)
            of = torch.tensor([row for row, _ in chosen], device=device)
            logits = prompts.logits(of, ids, real, predicting(marked))
            logits = _corrected(logits, marked, offsets)
            totals = _log_likelihoods(logits, ids, marked).tolist()
            found |= zip([key for _, key in chosen], totals, strict=True)
    return [found[key] for key in sorted(found)]


def _corrected(logits: Tensor, marked: Tensor, offsets: TokenOffsets | None) -> Tensor:
    if offsets is None:
        return logits
    return offsets.at(logits, (marked & (marked.cumsum(dim=1) == 1))[marked])


def _log_likelihoods(logits: Tensor, ids: Tensor, marked: Tensor) -> Tensor:
    """Sum over each row's marked tokens of their log-probability: [rows].

    `logits` are those that predict the marked tokens: [marked, vocabulary].
    """
    said = ids[marked]  # [marked]
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
