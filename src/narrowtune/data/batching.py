"""Encoded examples, with and without images, made into one batch that a model can be called on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from narrowtune.data.encoding import Encoded
from narrowtune.data.images import open_image
from narrowtune.data.model_side import Feed, ModelSide


@dataclass(frozen=True)
class Batch:
    """A padded batch.

    Attributes:
        inputs: Ready for `model(**inputs)`: input_ids and attention_mask [B, T], and what the
            family needs for its images (pixel_values, image_grid_thw, ...) when there are any.
        supervised: [B, T], True where the token is a target; it is predicted one place before.
        tokens: Tokens that are no padding.
        supervised_tokens: Targets in the batch.
        rows: The samples it was made of.
    """

    inputs: dict[str, torch.Tensor]
    supervised: torch.Tensor
    tokens: int
    supervised_tokens: int
    rows: tuple[Encoded, ...] = ()

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        moved = {name: tensor.to(device) for name, tensor in self.inputs.items()}
        return replace(self, inputs=moved, supervised=self.supervised.to(device))


def collate(
    encoded: Sequence[Encoded],
    processing: ModelSide,
    *,
    padding_side: Literal["left", "right"],
) -> Batch:
    """One batch of these examples, in this order.

    Args:
        encoded: What `encode` or `encode_prompt` gave.
        processing: The model's image processor and padding token.
        padding_side: "right" for training, "left" for generation.
    """
    width = max(len(one) for one in encoded)
    input_ids = torch.full((len(encoded), width), processing.pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    supervised = torch.zeros_like(input_ids, dtype=torch.bool)
    for row, one in enumerate(encoded):
        start = width - len(one) if padding_side == "left" else 0
        place = slice(start, start + len(one))
        input_ids[row, place] = torch.tensor(one.input_ids)
        attention_mask[row, place] = 1
        supervised[row, place] = torch.tensor(one.supervised)
    inputs = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        **processing.token_type_inputs(input_ids),
        **_image_inputs(encoded, processing),
    }
    return Batch(
        inputs=inputs,
        supervised=supervised,
        tokens=sum(len(one) for one in encoded),
        supervised_tokens=sum(one.supervised_tokens for one in encoded),
        rows=tuple(encoded),
    )


def feed_for(encoded: Sequence[Encoded], processing: ModelSide) -> Feed | None:
    """What answers for these samples' images at present; None for pixels, or without images."""
    groups = [one.example.images for one in encoded]
    feed = processing.feed if any(groups) else None
    return feed if feed is not None and feed.takes(groups) else None


def pixels(groups: Sequence[Sequence[Path]], processing: ModelSide) -> dict[str, torch.Tensor]:
    """The image processor's tensors for these samples' images."""
    images = [open_image(path) for group in groups for path in group]
    return processing.pixel_inputs(images, [len(group) for group in groups])


def _image_inputs(encoded: Sequence[Encoded], processing: ModelSide) -> dict[str, torch.Tensor]:
    groups, feed = [one.example.images for one in encoded], feed_for(encoded, processing)
    return pixels(groups, processing) if feed is None else feed.inputs(groups)
