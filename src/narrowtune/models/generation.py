"""Greedy answers, in batches, the same whatever the batch size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from transformers import LogitsProcessorList

from narrowtune.errors import InputError
from narrowtune.models.common_start import (
    TRIED_TOKENS,
    Prompts,
    Say,
    Sharing,
    Starts,
    can_begin_once,
    prefilled,
)
from narrowtune.models.correcting import Correction


class Speech(Protocol):
    """What generation asks of a model's processing."""

    @property
    def pad_token_id(self) -> int:
        """The filler token."""

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer."""

    def decode(self, ids: Sequence[int]) -> str:
        """Words of these tokens, special tokens left out, outer blanks stripped."""


@dataclass(frozen=True)
class Answer:
    """What a model said; `truncated` if it had not ended within the tokens it was given."""

    text: str
    truncated: bool


def generate_answers(
    model: nn.Module,
    processing: Speech,
    prompts: Iterable[tuple[Sequence[int], Prompts]],
    max_new_tokens: int,
    correction: Correction | None = None,
) -> list[Answer]:
    """The greedy answer to each prompt, in the order the prompts were given.

    Args:
        model: A transformers model that can generate; left in the modes it came in.
        processing: Its end tokens, padding token and decoding.
        prompts: Left-padded batches, each with the places of its rows. Of prompts that tell their
            common `starts` those are read once, where the model can go on from them.
        max_new_tokens: The longest answer.
        correction: What is done to the logits before a token is chosen.
    """
    steps = (correction,) if correction is not None else ()
    answers: dict[int, Answer] = {}
    with _greedy(model, processing, max_new_tokens) as say:
        for places, batch in _read(model, processing, prompts, max_new_tokens):
            for place, ids in zip(places, say(batch, steps), strict=True):
                answers[place] = _answer(ids, processing)
    return [answers[place] for place in range(len(answers))]


def watched_answers(
    model: nn.Module,
    processing: Speech,
    prompts: Iterable[tuple[Sequence[int], Prompts]],
    max_new_tokens: int,
    look: Callable[[Tensor], Tensor],
) -> list[tuple[Answer, Tensor]]:
    """The same answers, each with what `look` saw where its tokens were chosen.

    Args:
        model: As for `generate_answers`.
        processing: As for `generate_answers`.
        prompts: As for `generate_answers`.
        max_new_tokens: The longest answer.
        look: Given the logits of one step, float32 [rows, vocabulary], returns [rows, ...].

    Returns:
        For each prompt the answer and, stacked, what was seen at each of its tokens, the end
        token included: [tokens, ...] on CPU.
    """
    found: dict[int, tuple[Answer, Tensor]] = {}
    with _greedy(model, processing, max_new_tokens) as say:
        for places, batch in _read(model, processing, prompts, max_new_tokens):
            seen: list[Tensor] = []

            def watch(_ids: Tensor, logits: Tensor, seen: list[Tensor] = seen) -> Tensor:
                seen.append(look(logits.float()).cpu())
                return logits

            said = say(batch, (watch,))
            for row, (place, ids) in enumerate(zip(places, said, strict=True)):
                length = len(ids) if (end := _end(ids, processing)) is None else end + 1
                steps = torch.stack([step[row] for step in seen[:length]])
                found[place] = (_answer(ids, processing), steps)
    return [found[place] for place in range(len(found))]


def _read(
    model: nn.Module,
    processing: Speech,
    prompts: Iterable[tuple[Sequence[int], Prompts]],
    max_new_tokens: int,
) -> Iterable[tuple[Sequence[int], Any]]:
    """The batches as they are, or gone on from their common starts; in evaluation mode."""
    inner: nn.Module = getattr(model, "module", model)
    starts: Starts | None = getattr(prompts, "starts", None)
    if starts is None:
        return prompts
    tried = min(TRIED_TOKENS, max_new_tokens)
    with _greedy(model, processing, tried) as say:
        once = can_begin_once(inner, cast(Sharing, prompts), max_new_tokens, say)
    return prefilled(inner, starts) if once else prompts


@contextmanager
def _greedy(model: nn.Module, processing: Speech, max_new_tokens: int) -> Iterator[Say]:
    """Lends a function that gives a batch's new tokens, row by row."""
    inner: Any = getattr(model, "module", model)  # a data-parallel wrapper cannot generate
    device = next(inner.parameters()).device
    with evaluating(inner), _plain_greedy(inner, processing, max_new_tokens) as settings:

        def say(batch: Any, steps: Sequence[Correction]) -> list[list[int]]:
            inputs = batch.to(device).inputs
            start = inputs["input_ids"].shape[1]
            output = inner.generate(
                **inputs,
                generation_config=settings,
                logits_processor=LogitsProcessorList([_behind(start, step) for step in steps]),
            )  # [rows, prompt + new]
            new: list[list[int]] = output[:, start:].tolist()
            return new

        yield say


def _behind(start: int, step: Correction) -> Callable[[Tensor, Tensor], Tensor]:
    """A step that is shown the answer alone, not the prompt before it."""
    return lambda ids, logits: step(ids[:, start:], logits)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run in evaluation mode without gradients, then put every module back into its own mode.

    `no_grad` rather than `inference_mode`: some models store tensors of a forward pass (rotary
    frequencies, position offsets), and training must be able to use them afterwards.
    """
    with evaluation_mode(model), torch.no_grad():
        yield


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Without dropout, gradients as they were; then every module is put back into its own mode."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _plain_greedy(model: Any, processing: Speech, max_new_tokens: int) -> Iterator[Any]:
    """Generation settings that no model folder can change.

    `generate` fills whatever a given configuration leaves open from the model's own
    `generation_config` (repetition penalty, suppressed tokens, ...), so for the time being the
    model holds ours.
    """
    own = getattr(model, "generation_config", None)
    if own is None:
        raise InputError(f"{type(model).__name__} cannot generate; score its tasks by likelihood")
    plain = type(own)(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(processing.end_token_ids) or None,
        pad_token_id=processing.pad_token_id,
        use_cache=True,
    )
    model.generation_config = plain
    try:
        yield plain
    finally:
        model.generation_config = own


def _answer(ids: Sequence[int], processing: Speech) -> Answer:
    """The answer in one row, cut at its first end token."""
    end = _end(ids, processing)
    return Answer(processing.decode(ids[:end]), truncated=end is None)


def _end(ids: Sequence[int], processing: Speech) -> int | None:
    return next((i for i, token in enumerate(ids) if token in processing.end_token_ids), None)
