"""What the data room asks of a model's processing; `narrowtune.models.processing` answers it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from narrowtune.data.example import Message

Tokens = tuple[list[int], list[tuple[int, int]]]
"""Token ids, and each token's character span."""


class Feed(Protocol):
    """Answers for a frozen image encoder; `narrowtune.models.features` has it."""

    def takes(self, groups: Sequence[Sequence[Path]]) -> bool:
        """Whether it answers for these samples' images; else the encoder is shown their pixels."""

    def inputs(self, groups: Sequence[Sequence[Path]]) -> dict[str, torch.Tensor]:
        """What stands for these samples' images in a batch."""


class ModelSide(Protocol):
    """Chat template, tokenizer and image processor of one model."""

    @property
    def name(self) -> str:
        """The model's name, for error messages."""

    @property
    def pad_token_id(self) -> int:
        """The filler token."""

    @property
    def eos_token_id(self) -> int | None:
        """The end token written where a template writes none."""

    @property
    def image_token_id(self) -> int | None:
        """The placeholder token; None for a text model."""

    @property
    def max_length(self) -> int | None:
        """The model's maximum number of positions."""

    @property
    def tokenizer(self) -> Any:
        """The fast tokenizer."""

    @property
    def feed(self) -> Feed | None:
        """What answers for the image encoder at present; None while it is asked itself."""

    def end_strings(self) -> tuple[str, ...]:
        """The end tokens as they are written in a rendered conversation."""

    def render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        """The conversation as the model reads it."""

    def tokenize_all(self, texts: Sequence[str]) -> list[Tokens]:
        """Each text's tokens."""

    def image_token_counts(self, sizes: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        """Placeholder tokens of each image of one example."""

    def pixel_inputs(
        self, images: Sequence[Image.Image], per_example: Sequence[int]
    ) -> dict[str, torch.Tensor]:
        """The image processor's tensors for a batch."""

    def token_type_inputs(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Per-token modality ids, where the model needs them."""
