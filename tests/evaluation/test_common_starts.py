"""Prompts with their common start read once are answered as they are alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from begun_prompts import (
    NEW,
    answers,
    apart,
    assert_shared,
    batches,
    example,
    logits_of,
    text_side,
    texts,
    windowed,
)
from wide_models import Tiny

from narrowtune.data import read_examples, sharing
from narrowtune.data.batches import Batches
from narrowtune.data.batching import collate
from narrowtune.data.example import ImagePart, TextPart
from narrowtune.evaluation import prepare, score
from narrowtune.models.common_start import prefilled
from narrowtune.models.correcting import AnswerSpace, TokenOffsets
from narrowtune.models.features import encoder_of
from narrowtune.models.generation import evaluating
from narrowtune.models.loading import load_model
from narrowtune.models.processing import load_processing

sys.path.append(str(Path(__file__).parents[1] / "anatomy"))
from tiny_families import tiny_model

IMAGES = ["qwen2_5_vl", "qwen2_vl", "llava", "llava_next", "llava_onevision"]
TASKS = ("counting", "reading", "existence")


pytestmark = pytest.mark.usefixtures("short_starts")


@pytest.mark.parametrize("name", IMAGES)
def test_questions_on_one_image_are_answered_as_alone(tiny, on_images, name):
    assert_shared(tiny(name), on_images(), sizes=(3, 64))


@pytest.mark.parametrize("name", ["pico-qwen", "pico-llava"])
def test_trained_models_answer_as_before(name, drawn, monkeypatch):
    monkeypatch.setattr(sharing, "MOST_READ", 1.0)
    made = Tiny(load_model(name, device="cpu", dtype="float32"), load_processing(name))
    rows = {task: read_examples(drawn / task / "test.jsonl") for task in TASKS}
    images = [row.images[0] for row in rows["counting"][:4]]
    turns = [rows[task][0].prompt[-1].parts for task in TASKS]
    words = [[part for part in turn if isinstance(part, TextPart)] for turn in turns]
    both = [(ImagePart(image), *word) for image in images for word in words]
    asked = [example(number, parts) for number, parts in enumerate(both)]
    prompts = batches(made, asked, 6)
    found, expected = logits_of(made, prompts, 8), logits_of(made, apart(prompts), 8)
    assert list(prompts.starts.tried.values()) == [True]
    assert [one for one, _ in found] == [one for one, _ in expected]
    for (_, one), (_, other) in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_next"])
def test_in_double_precision_nothing_is_left_of_the_difference(tiny, on_images, name):
    made = tiny(name)
    model = type(made.model)(made.model.config).double().eval()
    model.load_state_dict(made.model.state_dict())
    prompts = batches(made, on_images(), 7)
    with evaluating(model):
        for places, batch in prefilled(model, prompts.starts):
            given = batch.inputs
            known = dict(given)
            width = known["input_ids"].shape[1]
            assert known["past_key_values"].get_seq_length() == width - 1
            last = {name: known.pop(name)[..., -1:] for name in ("input_ids", "position_ids")}
            found = model(**known, **last).logits[:, -1]
            rows = [prompts.encoded[place] for place in places]
            whole = collate(rows, made.processing, padding_side="left").inputs
            assert torch.equal(whole["input_ids"], given["input_ids"])
            positions = model._prepare_position_ids_for_generation(whole["input_ids"], dict(whole))
            assert torch.equal(
                positions.expand_as(given["position_ids"])[whole_real(whole, positions)],
                given["position_ids"][whole_real(whole, positions)],
            )
            expected = model(**whole, position_ids=positions).logits[:, -1]
            torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


def whole_real(whole, positions):
    return whole["attention_mask"].bool().expand(positions.shape)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "opt", "qwen2"])
def test_text_behind_common_words_is_answered_as_alone(family):
    assert_shared(text_side(tiny_model(family)), texts(), sizes=(5,))


def test_a_window_wider_than_the_prompts_is_no_hindrance():
    assert_shared(text_side(windowed(200)), texts(), sizes=(5,))


def test_half_precision_shares_too(tiny, on_images):
    made = tiny("llava_onevision")
    half = Tiny(type(made.model)(made.model.config).to(torch.bfloat16).eval(), made.processing)
    half.model.load_state_dict(made.model.state_dict())
    prompts = batches(half, on_images())
    assert len(answers(half, prompts)) == len(prompts.encoded)
    assert list(prompts.starts.tried.values()) == [True]


@pytest.mark.parametrize("size", [2, 64])
@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava"])
def test_each_image_passes_the_tower_once(tiny, on_images, name, size):
    made, seen = tiny(name), []
    prompts = batches(made, on_images(), size)
    answers(made, prompts)  # with its trial
    module = encoder_of(made.model).module
    tower = next(child for name, child in module.named_children() if name.startswith("vis"))
    hook = tower.register_forward_hook(lambda _tower, given, _said: seen.append(given[0].shape[0]))
    answers(made, prompts)
    once, read = sum(seen), len(seen)
    seen.clear()
    answers(made, apart(prompts))
    hook.remove()
    assert read == sum("pixel_values" in batch.inputs for batch, _ in prompts.starts)
    # Six images in questions of their own, two in the pair's; alone all of 16 + 2 + 2.
    assert sum(seen) / once == pytest.approx(20 / 8, rel=0.2)


def test_a_start_is_read_once_however_many_prompts_go_on_from_it(tiny, on_images):
    made, read = tiny("llava"), []
    prompts = batches(made, on_images("0000000000000"), 2)
    answers(made, prompts)
    hook = made.model.get_input_embeddings().register_forward_hook(
        lambda _embedding, given, _said: read.append(given[0].shape[1])
    )
    expected = answers(made, apart(prompts))
    whole = sum(length for length in read if length > 30)
    read.clear()
    assert answers(made, prompts) == expected
    hook.remove()
    assert sum(length for length in read if length > 30) < whole / 2


def test_no_more_is_kept_than_a_batch_read_whole_keeps(tiny, on_images):
    made = tiny("qwen2_5_vl")
    prompts = batches(made, on_images("0000000000000"), 4)
    with evaluating(made.model):
        for places, batch in prefilled(made.model, prompts.starts):
            cache = batch.inputs["past_key_values"]
            longest = max(len(prompts.encoded[place]) for place in places)
            shapes = {layer.keys.shape[::2] for layer in cache.layers}
            assert shapes == {(len(places), longest - 1)}
            forgotten = [layer.keys is None for layer in batch.read.cache.layers]
            assert set(forgotten) == {batch.last}


def test_answers_end_and_are_cut_as_alone(tiny, on_images, monkeypatch):
    made = tiny("qwen2_5_vl")
    examples = on_images()
    free = logits_of(made, batches(made, examples))
    third = int(free[0][1][2].argmax())
    ends = (*made.processing.end_token_ids, third)
    monkeypatch.setitem(made.processing.__dict__, "end_token_ids", ends)
    prompts = batches(made, examples, 4)
    found, expected = logits_of(made, prompts), logits_of(made, apart(prompts))
    assert list(prompts.starts.tried.values()) == [True]
    assert not found[0][0].truncated and any(one.truncated for one, _ in found)
    assert [one for one, _ in found] == [one for one, _ in expected]
    assert [len(seen) for _, seen in found] == [len(seen) for _, seen in expected]
    assert answers(made, prompts, 1) == answers(made, apart(prompts), 1)


def test_corrections_see_the_answer_alone(tiny, on_images):
    made = tiny("llava_onevision")
    prompts = batches(made, on_images(), 4)
    end = made.processing.end_token_ids[0]
    draw = torch.Generator().manual_seed(3)
    offsets = TokenOffsets(*(torch.randn(512, generator=draw) * 3 for _ in range(2)))
    for correction in (AnswerSpace([(40, 41, end), (50, end), (40, 60, end)]), offsets):
        found = answers(made, prompts, correction=correction)
        assert found == answers(made, apart(prompts), correction=correction)
        assert found != answers(made, prompts)


def test_a_task_is_scored_by_common_starts_and_tried_once(tiny, on_images, monkeypatch):
    made = tiny("qwen2_5_vl")
    task = prepare(made.processing, on_images(), {"batch_size": 4, "max_new_tokens": NEW})
    made.model.model.rope_deltas = stored = torch.tensor([[7]])
    first = score(made.model, task)
    assert made.model.model.rope_deltas is stored
    made.model.model.rope_deltas = None
    monkeypatch.setattr(Batches, "trial", None)
    assert score(made.model, task) == first
    monkeypatch.setattr(Batches, "starts", None)
    assert score(made.model, task) == first
