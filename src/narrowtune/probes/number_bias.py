"""Number-token bias on captions that the model writes itself (arXiv 2510.08564, section 5).

NTB = 1/|B| sum over images of 1/|y| sum over the tokens j of y of max over v in C of
p(v | y up to j, image, prompt): y is the model's own greedy caption, C the tokenizer's number
tokens. Every model is read on its own text; `Reference` reads all on the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from narrowtune.data.batches import Batches
from narrowtune.errors import InputError, RunFailed
from narrowtune.models.generation import Speech, watched_answers
from narrowtune.probes.classes import TokenClass

MAX_NEW_TOKENS = 256
"""The paper's longest caption."""


@dataclass(frozen=True)
class Caption:
    """One caption and the number tokens' probability while it was written.

    Attributes:
        text: The caption.
        tokens: How many tokens were chosen, the end token included.
        bias: Mean over them of the largest probability of a single number token.
        summed: Mean over them of the number tokens' probability together.
        peak: The largest probability of a single number token at any of them.
    """

    text: str
    tokens: int
    bias: float
    summed: float
    peak: float


def number_bias(
    model: nn.Module,
    processing: Speech,
    prompts: Batches,
    numbers: TokenClass,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[Caption]:
    """The model's own greedy captions with their number-token bias, in the prompts' order.

    Args:
        model: A transformers model that can generate.
        processing: Its end tokens, padding token and decoding.
        prompts: Left-padded batches of captioning prompts.
        numbers: The number tokens.
        max_new_tokens: The longest caption.

    Raises:
        InputError: The tokenizer has no number token: a bias of 0 would look measured.
        RunFailed: The model expects NaN.
    """
    if not numbers.ids:
        raise InputError(f"number_bias is not available: {numbers.reason}")
    ids = torch.tensor(numbers.ids)

    def look(logits: Tensor) -> Tensor:
        chances = logits.softmax(dim=-1)[:, ids.to(logits.device)]
        return torch.stack([chances.max(dim=-1).values, chances.sum(dim=-1)], dim=-1)

    written = watched_answers(model, processing, prompts, max_new_tokens, look)
    if any(bool(seen.isnan().any()) for _, seen in written):
        raise RunFailed("captions: the model expects NaN: its weights are damaged")
    return [_caption(answer.text, seen) for answer, seen in written]


def _caption(text: str, seen: Tensor) -> Caption:
    largest, summed = seen.unbind(dim=-1)
    return Caption(
        text, len(seen), float(largest.mean()), float(summed.mean()), float(largest.max())
    )
