"""Whether what lm-eval asks fits the model: lm-eval itself would cut it and only log a warning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from narrowtune.errors import InputError

if TYPE_CHECKING:
    from narrowtune.models.processing import Processing

Asking = tuple[str, tuple[Any, ...]]
"""A request's kind and its arguments."""


def check_lengths(
    source: str, processing: Processing, requests: Iterable[Asking], answer_tokens: int
) -> None:
    """Refuse requests that are longer than the model has positions.

    Args:
        source: What is asked, for the message.
        processing: The model's tokenizer and positions.
        requests: Everything the model will be asked.
        answer_tokens: Room that an answer takes, unless the request says otherwise.

    Raises:
        InputError: Saying how many do not fit, the longest, and what to do.
    """
    room = processing.max_length
    if room is None:
        return
    lengths = [_tokens(processing, *request, answer_tokens) for request in requests]
    over = [length for length in lengths if length > room]
    if over:
        raise InputError(
            f"{source}: {len(over)} of {len(lengths)} requests do not fit the {room} positions of "
            f"{processing.name}, the longest takes {max(over)}; lm-eval would cut their beginning. "
            "Ask for fewer num_fewshot or max_new_tokens, or take another task"
        )


def _tokens(
    processing: Processing, kind: str, arguments: tuple[Any, ...], answer_tokens: int
) -> int:
    """Positions that a request takes: the last token of a scored text is never read."""
    if kind == "generate_until":
        prompt, settings = arguments
        own = settings.get("max_gen_toks") if isinstance(settings, Mapping) else None
        return _count(processing, prompt) + int(own or answer_tokens)
    return _count(processing, "".join(map(str, arguments))) - 1


def _count(processing: Processing, text: str) -> int:
    return len(processing.tokenizer(text)["input_ids"])
