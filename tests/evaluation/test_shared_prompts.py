"""A prompt read once for all its choices gives the scores of whole sequences, or is not shared."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_processors import TEXT
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, Phi3Config, Phi3ForCausalLM
from wide_models import with_wide_weights

from narrowtune.data import read_examples
from narrowtune.data.batches import Batches
from narrowtune.data.encoding import Encoded
from narrowtune.data.example import Example, Message, TextPart
from narrowtune.evaluation import prepare
from narrowtune.evaluation.likelihood import (
    can_share,
    encode_choices,
    score_choices,
    shared_totals,
    whole_totals,
)
from narrowtune.evaluation.questions import Questions
from narrowtune.models.gallery import exceptions
from narrowtune.models.generation import evaluating
from narrowtune.models.loading import load_model
from narrowtune.models.processing import load_processing

sys.path.append(str(Path(__file__).parents[1] / "anatomy"))
from tiny_families import cases, tiny_model

CHOICES = ("A red circle", "3", "a blue square and a red circle", "yes, no")
SIZES = (1, 3, 7, 64)
TURNS = (Message("user", (TextPart("?"),)), Message("assistant", (TextPart("!"),)))
DRAWN = Example("drawn", TURNS, "t.jsonl:1", ("!",))


class TextSide:
    """As much of a processing as token ids without images ask for."""

    pad_token_id, image_token_id = 1, None

    def token_type_inputs(self, input_ids):
        return {}

    def pixel_inputs(self, images, per_example):
        return {}


def drawn_questions(batch_size, lengths=(7, 20, 12, 3, 9, 15), counts=(4, 2, 3)):
    """Questions of random tokens: prompts of these lengths, choices of one to five tokens."""
    draw = torch.Generator().manual_seed(5)

    def tokens(count):
        return tuple(torch.randint(30, 60, (count,), generator=draw).tolist())

    def question(number, length):
        tails = [tokens(n) for n in (1, 5, 2, 3)[: counts[number % len(counts)]]]
        return whole(tokens(length), tails)

    return Questions([question(*one) for one in enumerate(lengths)], TextSide(), batch_size)


def whole(prompt, tails):
    start = len(prompt)
    return [
        Encoded(DRAWN, (*prompt, *tail), (False,) * start + (True,) * len(tail), start)
        for tail in tails
    ]


def assert_same_scores(model, make):
    with evaluating(model):
        expected = whole_totals(model, make(1))
        for size in SIZES:
            assert can_share(model, make(size))
            assert shared_totals(model, make(size)) == pytest.approx(expected, abs=1e-5, rel=1e-6)
    assert len(set(expected)) == len(expected)  # no two alike: a mix-up would show


@pytest.mark.parametrize(
    "family", ["llama", "qwen2", "phi3", "gpt2", "bloom", "gemma3_text", "opt", "gemma3n_text"]
)
def test_text_families_share(family):
    assert_same_scores(tiny_model(family), drawn_questions)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_windows_shorter_than_the_prompts_are_shared(attention):
    config = Gemma3TextConfig(
        **{**TEXT, "head_dim": 8}, sliding_window=6, attn_implementation=attention
    )
    assert "sliding_attention" in config.layer_types
    model = with_wide_weights(Gemma3ForCausalLM(config))
    assert_same_scores(model, drawn_questions)


@pytest.mark.parametrize(
    "name", ["qwen2_5_vl", "qwen2_vl", "llava", "llava_next", "llava_onevision"]
)
def test_families_with_images_share_them_too(tiny, questions, name):
    made = tiny(name)
    asked = questions(5, images=True, choices=CHOICES)
    encoded = [encode_choices(example, made.processing) for example in asked]
    assert_same_scores(made.model, lambda size: Questions(encoded, made.processing, size))


@pytest.mark.parametrize("name", ["pico-qwen", "pico-llava"])
def test_bundled_models_share(name, drawn):
    processing = load_processing(name)
    model = load_model(name, device="cpu", dtype="float32")
    rows = read_examples(drawn / "counting" / "test.jsonl")[:4]
    rows += read_examples(drawn / "reading" / "test.jsonl")[:2]
    asked = [replace(row, choices=("three", "7", "a red circle")) for row in rows]
    encoded = [encode_choices(example, processing) for example in asked]
    assert_same_scores(model, lambda size: Questions(encoded, processing, size))


@pytest.mark.parametrize("family", ["mamba", "mamba2", "rwkv", "jamba", "qwen3_next", "zamba2"])
def test_recurrent_models_read_every_sequence_whole(family):
    assert_scored_whole(tiny_model(family))


@pytest.mark.parametrize("family", ["bart", "whisper"])
def test_a_class_that_goes_on_wrongly_is_found_out_by_the_trial(family):
    """Their decoders count positions by places, padding included."""
    model = tiny_model(family)
    with evaluating(model):
        wrong = shared_totals(model, drawn_questions(16))
        assert wrong != pytest.approx(whole_totals(model, drawn_questions(16)), abs=1e-2)
    assert_scored_whole(model)


@pytest.mark.parametrize(
    ("family", "shared"),
    [("llama", True), ("gpt2", True), ("marian", False), ("blenderbot-small", False)],
)
def test_in_half_precision_rounding_hides_no_misplaced_prompt(family, shared):
    model = tiny_model(family).bfloat16()
    with evaluating(model):
        assert can_share(model, drawn_questions(16)) is shared


def assert_scored_whole(model):
    asked = drawn_questions(16)
    with evaluating(model):
        assert not can_share(model, asked)
        expected = whole_totals(model, asked)
    scores = score_choices(model, asked)
    assert [choice.total for choices in scores for choice in choices] == expected
    assert [len(choices) for choices in scores] == [len(choices) for choices in asked.encoded]


def test_angles_that_change_with_the_length_are_not_shared():
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    config = Phi3Config(
        **TEXT,
        pad_token_id=0,
        rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0, **factors},
        original_max_position_embeddings=16,
    )
    model = with_wide_weights(Phi3ForCausalLM(config))
    within, across = (9, 4, 8, 11), (9, 4, 8, 15)
    with evaluating(model):
        assert can_share(model, drawn_questions(1, within))
        assert not can_share(model, drawn_questions(1, across))
        broken = shared_totals(model, drawn_questions(1, across))
        assert broken != pytest.approx(whole_totals(model, drawn_questions(1, across)), abs=1e-3)


def test_what_a_model_stored_is_left_as_found(tiny, questions):
    made = tiny("qwen2_5_vl")
    asked = questions(5, images=True, choices=CHOICES)
    task = prepare(made.processing, asked, {"scoring": "likelihood"})
    inner = made.model.model
    for stored in (None, torch.tensor([[7]])):
        inner.rope_deltas = stored
        score_choices(made.model, task.batches)
        assert inner.rope_deltas is stored
    inner.rope_deltas = None


def test_every_prompt_is_read_once():
    model, asked = tiny_model("llama"), drawn_questions(64)
    read = []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda _module, args, _output: read.append(args[0].numel())
    )
    with evaluating(model):
        shared_totals(model, asked)
        assert len(read) == 2  # the prompts, then the choices
        # 6 prompts of at most 19 tokens, 18 choices of at most 5 and the token before them
        assert sum(read) <= 6 * 19 + 18 * 6
    hook.remove()


def test_a_prompt_is_shared_up_to_where_the_tokens_part():
    prompt = tuple(range(30, 40))
    asked = whole(prompt, [(50, 51), (52,)])
    # The tokenizer merged the prompt's end with one choice.
    asked.append(replace(asked[0], input_ids=(*prompt[:7], 59, 58, 57, 50, 51)))
    questions = Questions([asked] * 4, TextSide(), 64)
    assert {len(shared) for shared in questions.prompts.encoded} == {7}
    model = tiny_model("llama")
    with evaluating(model):
        expected = whole_totals(model, questions)
        assert shared_totals(model, questions) == pytest.approx(expected, abs=1e-5)


def test_the_token_before_the_choice_is_read_with_it_and_images_come_before():
    prompt = (30, 31, 32)
    shared = Questions([whole(prompt, [(50,), (51,)])], TextSide(), 4).prompts
    assert shared.encoded[0].input_ids == (30, 31)
    side = TextSide()
    for place, shares in ((30, False), (31, False), (29, True)):
        side.image_token_id = place
        asked = whole((29, *prompt) if shares else prompt[:2], [(50,), (51,)])
        assert (Questions([asked], side, 4).prompts is not None) is shares
    # Nothing is left to share where a prompt has one token.
    assert Questions([whole((30,), [(50,), (51,)])], TextSide(), 4).prompts is None


def test_batches_count_the_rows_that_a_prompt_stands_for():
    lengths, rows = (9, 8, 7, 6, 5), (2, 2, 9, 1, 3)
    prompts = [whole(tuple(range(n)), [(50,)])[0] for n in lengths]
    batches = Batches(prompts, TextSide(), 4, "left", rows)
    assert batches.places == [[0, 1], [2], [3, 4]]
    assert Batches(prompts, TextSide(), 2, "left").places == [[0, 1], [2, 3], [4]]


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in cases() if case not in exceptions()])
def test_every_family_is_shared_rightly_or_not_at_all(case):
    try:
        model = tiny_model(case)
        with evaluating(model):
            expected = whole_totals(model, drawn_questions(1))
    except Exception as error:  # whatever a class raises that wants an image or an encoder's text
        pytest.skip(f"it cannot be scored on text at all: {error}")
    with evaluating(model):
        if can_share(model, drawn_questions(9)):
            found = shared_totals(model, drawn_questions(9))
            assert found == pytest.approx(expected, abs=1e-4)
