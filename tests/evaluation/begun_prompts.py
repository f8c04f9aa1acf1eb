"""Prompts that start alike, answered both ways: with their common start read once, and alone."""

from __future__ import annotations

import torch
from PIL import Image
from tiny_processors import TEXT
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, Phi3Config, Phi3ForCausalLM
from wide_models import Tiny, with_wide_weights

from narrowtune.data.batches import Batches
from narrowtune.data.encoding import Encoded, encode_prompts
from narrowtune.data.example import Example, ImagePart, Message, TextPart
from narrowtune.models.generation import generate_answers, watched_answers

WORDS = ("How many?", "What is shown here? A red circle and 3 blue squares.", "Yes", "42 is")
NEW = 5


def questions_on(folder, places="0123012340120150"):
    """Questions on few images in mixed order, and some on images and texts of their own."""
    made = [picture(folder, n) for n in range(6)]
    rows = [[ImagePart(made[int(n)]), TextPart(words(k))] for k, n in enumerate(places)]
    rows.insert(5, [TextPart("Hello world, yes")])
    rows.insert(9, [ImagePart(made[1]), TextPart("3 or"), ImagePart(made[2]), TextPart("?")])
    rows.append([ImagePart(made[1]), TextPart("3 or"), ImagePart(made[2]), TextPart("42")])
    return [example(number, parts) for number, parts in enumerate(rows)]


def picture(folder, number):
    path = folder / f"{number}.png"
    size = (84, 84) if number % 2 else (120, 60)
    Image.linear_gradient("L").resize(size).rotate(31 * number).convert("RGB").save(path)
    return path


def words(number):
    return f"{WORDS[number % 4]} {number // 4}"


def example(number, parts):
    turns = (Message("user", tuple(parts)), Message("assistant", (TextPart("!"),)))
    return Example(f"q{number}", turns, f"t.jsonl:{number}", ("!",))


class TextSide:
    """As much of a processing as drawn tokens without images ask for."""

    pad_token_id, image_token_id, feed, end_token_ids = 1, None, None, ()

    def token_type_inputs(self, input_ids):
        return {}

    def pixel_inputs(self, images, per_example):
        return {}

    def decode(self, ids):
        return str(list(ids))


def text_side(model):
    return Tiny(model, TextSide())


def texts(starts=(20,) * 13, alone=(9, 40)):
    """Prompts of drawn tokens behind so many common ones, and some of other tokens."""
    draw = torch.Generator().manual_seed(5)

    def tokens(count):
        return tuple(torch.randint(30, 60, (count,), generator=draw).tolist())

    common = tokens(max(starts))
    ids = [common[:start] + tokens(1 + 5 * k % 14) for k, start in enumerate(starts)]
    ids[4:4] = map(tokens, alone)
    row = example(0, [TextPart("?")])
    return [Encoded(row, one, (False,) * len(one), len(one)) for one in ids]


def batches(made, asked, size=64):
    if isinstance(asked[0], Example):
        asked = encode_prompts(asked, made.processing)
    return Batches(asked, made.processing, size, "left")


def apart(prompts):
    """The same batches without a word of common starts."""
    return list(prompts)


def answers(made, prompts, new=NEW, **options):
    return generate_answers(made.model, made.processing, prompts, new, **options)


def logits_of(made, prompts, new=NEW):
    return watched_answers(made.model, made.processing, prompts, new, lambda logits: logits)


def assert_shared(made, asked, sizes=(1, 3, 64), most=1e-5):
    expected = logits_of(made, apart(batches(made, asked)))
    for size in sizes:
        prompts = batches(made, asked, size)
        found = logits_of(made, prompts)
        assert list(prompts.starts.tried.values()) == [True]
        assert [one for one, _ in found] == [one for one, _ in expected]
        for (_, one), (_, other) in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=most, rtol=most)
    assert len({one.text for one, _ in expected}) > len(asked) // 2  # a mix-up would show


def assert_whole(made, asked):
    prompts = batches(made, asked, 5)
    assert prompts.starts is not None
    expected = logits_of(made, apart(prompts))
    found = logits_of(made, prompts)
    assert True not in prompts.starts.tried.values()
    for (one, seen), (other, known) in zip(found, expected, strict=True):
        assert one == other and torch.equal(seen, known)


def windowed(tokens):
    config = Gemma3TextConfig(**{**TEXT, "head_dim": 8}, sliding_window=tokens)
    assert "sliding_attention" in config.layer_types
    return with_wide_weights(Gemma3ForCausalLM(config))


def longrope(original):
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, **factors}
    more = {"original_max_position_embeddings": original, "pad_token_id": 0}
    return with_wide_weights(Phi3ForCausalLM(Phi3Config(**TEXT, rope_parameters=rope, **more)))
