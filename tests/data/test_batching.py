"""Batches give each sample what it would get alone, wherever the padding is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pytest
import tiny_processors as tiny
import torch
from transformers import AutoModelForImageTextToText

from narrowtune.data import Example, ImagePart, Message, TextPart
from narrowtune.data.batching import collate
from narrowtune.data.encoding import encode
from narrowtune.models.processing import Processing


def example(question: str, answer: str, images: Sequence[Path] = ()) -> Example:
    parts = (*(ImagePart(path) for path in images), TextPart(question))
    user, assistant = Message("user", parts), Message("assistant", (TextPart(answer),))
    return Example(question, (user, assistant), "data.jsonl:1", (answer,))


@pytest.fixture
def mixed(picture: Callable[..., Path]) -> list[Example]:
    """Text only, one image, two images: of different sizes and lengths."""
    first, second = picture("a.png", (84, 84), 1), picture("b.png", (100, 60), 2)
    third = picture("c.png", (60, 150), 3)
    return [
        example("How many blue squares?", "42"),
        example("What?", "A red circle", [first]),
        example("Hello world", "yes"),
        example("What is shown here?", "no", [second, third]),
    ]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", list(tiny.FAMILIES))
def test_a_mixed_batch_equals_the_samples_alone(
    name: str,
    side: Literal["left", "right"],
    mixed: list[Example],
    family: Callable[[str], Processing],
) -> None:
    processing = family(name)
    torch.manual_seed(0)
    config = tiny.FAMILIES[name]["config"](processing.tokenizer)
    model = AutoModelForImageTextToText.from_config(config).float().eval()
    encoded = [encode(one, processing) for one in mixed]
    batch = collate(encoded, processing, padding_side=side)
    with torch.no_grad():
        together = model(**batch.inputs).logits
        for row, one in enumerate(encoded):
            alone = model(**collate([one], processing, padding_side=side).inputs).logits[0]
            mine = together[row][batch.inputs["attention_mask"][row].bool()]
            torch.testing.assert_close(mine, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_mask_travels_with_its_tokens(
    side: Literal["left", "right"], mixed: list[Example], family: Callable[[str], Processing]
) -> None:
    processing = family("qwen2_5_vl")
    encoded = [encode(one, processing) for one in mixed]
    batch = collate(encoded, processing, padding_side=side)
    ids = batch.inputs["input_ids"]
    for row, one in enumerate(encoded):
        taught = [t for t, mark in zip(one.input_ids, one.supervised, strict=True) if mark]
        assert ids[row][batch.supervised[row]].tolist() == taught
        assert ids[row][batch.inputs["attention_mask"][row].bool()].tolist() == list(one.input_ids)
    assert batch.supervised_tokens == int(batch.supervised.sum())
    assert batch.supervised_tokens == sum(one.supervised_tokens for one in encoded)
    assert batch.tokens == int(batch.inputs["attention_mask"].sum())
    assert batch.inputs["image_grid_thw"].shape[0] == 3
    assert not batch.supervised[:, 0].any(), "the first token has nothing to be predicted from"


def test_text_batches_carry_no_pixels(
    mixed: list[Example], family: Callable[[str], Processing]
) -> None:
    processing = family("qwen2_5_vl")
    encoded = [encode(mixed[0], processing), encode(mixed[2], processing)]
    inputs = collate(encoded, processing, padding_side="right").inputs
    assert {name for name in inputs if name != "mm_token_type_ids"} == {
        "input_ids",
        "attention_mask",
    }


def test_batches_move(mixed: list[Example], family: Callable[[str], Processing]) -> None:
    processing = family("qwen2_5_vl")
    batch = collate([encode(mixed[1], processing)], processing, padding_side="right").to("meta")
    assert {t.device.type for t in (*batch.inputs.values(), batch.supervised)} == {"meta"}
