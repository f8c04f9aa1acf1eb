"""Greedy answers, in batches, the same whatever the batch size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from narrowtune.errors import InputError
from narrowtune.evaluation.batches import Batches


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
    model: nn.Module, processing: Speech, prompts: Batches, max_new_tokens: int
) -> list[Answer]:
    """The greedy answer to each prompt, in the order the prompts were given.

    Args:
        model: A transformers model that can generate; left in the modes it came in.
        processing: Its end tokens, padding token and decoding.
        prompts: Left-padded batches.
        max_new_tokens: The longest answer.
    """
    inner: Any = getattr(model, "module", model)  # a data-parallel wrapper cannot generate
    device = next(inner.parameters()).device
    answers: dict[int, Answer] = {}
    with evaluating(inner), _plain_greedy(inner, processing, max_new_tokens) as settings:
        for places, batch in prompts:
            inputs = batch.to(device).inputs
            output = inner.generate(**inputs, generation_config=settings)  # [rows, prompt + new]
            said = output[:, inputs["input_ids"].shape[1] :].tolist()
            for place, ids in zip(places, said, strict=True):
                answers[place] = _answer(ids, processing)
    return [answers[place] for place in range(len(answers))]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run in evaluation mode without gradients, then put every module back into its own mode.

    `no_grad` rather than `inference_mode`: some models store tensors of a forward pass (rotary
    frequencies, position offsets), and training must be able to use them afterwards.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
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
    ends = [index for index, token in enumerate(ids) if token in processing.end_token_ids]
    return Answer(processing.decode(ids[: ends[0]] if ends else ids), truncated=not ends)
