"""Prompts with their common start read once are answered as they are alone, or not shared."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_processors import CHATML, TEXT, make_tokenizer
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    Phi3Config,
    Phi3ForCausalLM,
)
from wide_models import Tiny, with_wide_weights

from narrowtune.data import sharing
from narrowtune.data.batches import Batches
from narrowtune.data.encoding import encode_prompts
from narrowtune.data.example import Example, ImagePart, Message, TextPart
from narrowtune.models.common_start import prefilled
from narrowtune.models.features import encoder_of
from narrowtune.models.generation import generate_answers, watched_answers
from narrowtune.models.processing import Processing

sys.path.append(str(Path(__file__).parents[1] / "anatomy"))
from tiny_families import tiny_model

IMAGES = ["qwen2_5_vl", "qwen2_vl", "llava", "llava_next", "llava_onevision"]
ASKED = ("How many?", "What is shown here? A red circle and 3 blue squares.", "Yes", "42 is")
FIRST = "You are a helpful assistant. What is shown here? A red circle. How many? "
NEW = 5


@pytest.fixture(autouse=True)
def short_starts(monkeypatch):
    """Tiny models' images are few tokens."""
    monkeypatch.setattr(sharing, "LEAST_START", 8)


@pytest.fixture
def on_images(tmp_path):
    """Questions on few images in mixed order, and one each on images and texts of their own."""

    def make(places="0123012340120150"):
        made = [picture(tmp_path, n) for n in range(6)]
        rows = [[ImagePart(made[int(n)]), TextPart(asked(k))] for k, n in enumerate(places)]
        rows.insert(5, [TextPart("Hello world, yes")])
        rows.insert(9, [ImagePart(made[1]), TextPart("3 or"), ImagePart(made[2]), TextPart("?")])
        rows.append([ImagePart(made[1]), TextPart("3 or"), ImagePart(made[2]), TextPart("42")])
        return [example(number, parts) for number, parts in enumerate(rows)]

    return make


def picture(folder, number):
    path = folder / f"{number}.png"
    size = (84, 84) if number % 2 else (120, 60)
    Image.linear_gradient("L").resize(size).rotate(31 * number).convert("RGB").save(path)
    return path


def asked(number):
    return f"{ASKED[number % 4]} {number // 4}"


def example(number, parts):
    turns = (Message("user", tuple(parts)), Message("assistant", (TextPart("!"),)))
    return Example(f"q{number}", turns, f"t.jsonl:{number}", ("!",))


def texts(count=13):
    rows = [[TextPart((FIRST if number != 4 else "Yes") + asked(number))] for number in range(count)]
    return [example(number, parts) for number, parts in enumerate(rows)]


def text_side(model):
    return Tiny(model, Processing("tiny", make_tokenizer(CHATML), None, model.config))


def batches(made, examples, size=64):
    return Batches(encode_prompts(examples, made.processing), made.processing, size, "left")


def apart(prompts):
    """The same batches without a word of common starts."""
    return list(prompts)


def answers(made, prompts, new=NEW, **options):
    return generate_answers(made.model, made.processing, prompts, new, **options)


def logits_of(made, prompts, new=NEW):
    return watched_answers(made.model, made.processing, prompts, new, lambda logits: logits)


def assert_shared(made, examples, sizes=(1, 3, 64), most=1e-5):
    expected = logits_of(made, apart(batches(made, examples)))
    for size in sizes:
        prompts = batches(made, examples, size)
        found = logits_of(made, prompts)
        assert list(prompts.starts.tried.values()) == [True]
        assert [one for one, _ in found] == [one for one, _ in expected]
        for (_, one), (_, other) in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=most, rtol=most)
    assert len({one.text for one, _ in expected}) > len(examples) // 2  # a mix-up would show


@pytest.mark.parametrize("name", IMAGES)
def test_questions_on_one_image_are_answered_as_alone(tiny, on_images, name):
    assert_shared(tiny(name), on_images(), sizes=(3, 64))


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava"])
def test_but_for_rounding_nothing_differs(tiny, on_images, name):
    made = tiny(name)
    double = type(made.model)(made.model.config).double().eval()
    double.load_state_dict(made.model.state_dict())
    assert_shared(Tiny(double, made.processing), on_images(), sizes=(3,), most=1e-5)
