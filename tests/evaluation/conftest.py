"""Fixtures of the evaluation room: tiny real models, and questions for them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parent.parent / "data"))
from begun_prompts import questions_on
from tiny_processors import CHATML, TEXT, make_tokenizer, write_family
from transformers import LlamaConfig, LlamaForCausalLM
from wide_models import Tiny, with_wide_weights

from narrowtune.data import sharing
from narrowtune.data.example import Example, ImagePart, Message, TextPart
from narrowtune.models.processing import Processing, load_processing
from narrowtune.models.skeleton import load_config, model_class


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    """A model and its processing by family name ("llama" for text alone), each made once."""
    made: dict[str, Tiny] = {}

    def build(name: str) -> Tiny:
        if name == "llama":
            config = LlamaConfig(**TEXT)
            processing = Processing("tiny-llama", make_tokenizer(CHATML), None, config)
            return Tiny(with_wide_weights(LlamaForCausalLM(config)), processing)
        folder = str(write_family(tmp_path_factory.mktemp(name), name))
        config = load_config(folder)
        return Tiny(with_wide_weights(model_class(config)(config)), load_processing(folder))

    def get(name: str) -> Tiny:
        if name not in made:
            made[name] = build(name)
        return made[name]

    return get


@pytest.fixture
def questions(tmp_path: Path) -> Callable[..., list[Example]]:
    """Examples with prompts of very different lengths, with and without images."""

    def make(count: int, images: bool, choices: tuple[str, ...] = ()) -> list[Example]:
        return [_question(number, images, choices, tmp_path) for number in range(count)]

    return make


def _question(number: int, images: bool, choices: tuple[str, ...], folder: Path) -> Example:
    asked: list[Any] = [TextPart(f"{'What is shown here? ' * (number * 5 % 7)}How many? {number}")]
    if images and number % 3:
        path = folder / f"{number}.png"
        size = (84, 84) if number % 2 else (120, 60)
        Image.linear_gradient("L").resize(size).rotate(31 * number).convert("RGB").save(path)
        asked.insert(0, ImagePart(path))
    answer = choices[number % len(choices)] if choices else str(number)
    messages = (Message("user", tuple(asked)), Message("assistant", (TextPart(answer),)))
    return Example(f"q{number}", messages, f"t.jsonl:{number + 1}", (answer,), choices)


@pytest.fixture
def short_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Common starts of a few tokens are read once too: tiny models' images have no more."""
    monkeypatch.setattr(sharing, "LEAST_START", 8)


@pytest.fixture
def on_images(tmp_path: Path) -> Callable[..., list[Example]]:
    """Makes questions on few images."""
    return partial(questions_on, tmp_path)
