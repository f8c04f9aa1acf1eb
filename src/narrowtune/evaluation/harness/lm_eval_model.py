"""A loaded model, as lm-eval wants one: its own Hugging Face class around it, nothing loaded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lm_eval.models.huggingface import HFLM

if TYPE_CHECKING:
    from torch import nn

    from narrowtune.models.processing import Processing


def text_model(
    model: nn.Module, processing: Processing, batch_size: int, in_template: Callable[..., str]
) -> Any:
    """`model` behind lm-eval's interface.

    The tokenizer is a copy, since lm-eval sets its padding. `in_template` writes conversations:
    of some multimodal models the processor holds the template, not the tokenizer.
    """
    lm = HFLM(
        pretrained=model,
        tokenizer=copy.deepcopy(processing.tokenizer),
        batch_size=batch_size,
        max_length=processing.max_length,
    )
    lm.apply_chat_template = in_template
    return lm
