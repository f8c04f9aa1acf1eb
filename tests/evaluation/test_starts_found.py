"""Which prompts are read by their common starts, and which as ever."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from begun_prompts import (
    answers,
    assert_shared,
    assert_whole,
    batches,
    example,
    longrope,
    picture,
    text_side,
    texts,
    windowed,
)

from narrowtune.data import read_examples, sharing
from narrowtune.data.batches import Batches
from narrowtune.data.encoding import encode_prompts
from narrowtune.data.example import ImagePart, TextPart
from narrowtune.data.sharing import common_starts, pays
from narrowtune.models.processing import load_processing
from narrowtune.models.prompt_cache import ReadPrompts

sys.path.append(str(Path(__file__).parents[1] / "anatomy"))
from tiny_families import tiny_model

pytestmark = pytest.mark.usefixtures("short_starts")


@pytest.mark.parametrize("family", ["mamba", "rwkv", "jamba", "qwen3_next", "window", "longrope"])
def test_who_cannot_go_on_from_a_start_reads_every_prompt_whole(family):
    made = {"window": lambda: windowed(9), "longrope": lambda: longrope(40)}
    model = made[family]() if family in made else tiny_model(family)
    assert_whole(text_side(model), texts())


def test_angles_that_change_further_on_do_not_matter():
    made = text_side(longrope(200))
    assert_shared(made, texts(), sizes=(5,))


def test_a_misplaced_continuation_is_found_out(tiny, on_images, monkeypatch):
    following = ReadPrompts._following

    def off_by_one(self, prompts, real):
        return following(self, prompts, real) + 1

    monkeypatch.setattr(ReadPrompts, "_following", off_by_one)
    for name in ("qwen2_5_vl", "llava"):
        assert_whole(tiny(name), on_images())
        half = tiny(name)
        dtype = half.model.dtype
        half.model.bfloat16()
        prompts = batches(half, on_images())
        answers(half, prompts)
        half.model.to(dtype)
        assert list(prompts.starts.tried.values()) == [False]


@pytest.mark.parametrize(("name", "shares"), [("llava", True), ("qwen2_5_vl", False)])
def test_behind_an_image_positions_on_one_axis_alone_go_on_by_one(tiny, on_images, name, shares):
    made = tiny(name)
    token = made.processing.image_token_id
    prompts = []
    for number, prompt in enumerate(encode_prompts(on_images("012012012012"), made.processing)):
        ids = list(prompt.input_ids)
        if token in ids:  # another word behind the image, in place of its closing mark
            ids[len(ids) - ids[::-1].index(token)] = 40 + number
        prompts.append(replace(prompt, input_ids=tuple(ids)))
    if shares:
        assert_shared(made, prompts, sizes=(5,))
    else:
        assert_whole(made, prompts)


# -- what is shared --------------------------------------------------------------------------


def test_bundled_models_tasks_are_read_as_ever(drawn, monkeypatch):
    monkeypatch.undo()
    processing = load_processing("pico-qwen")
    for task in ("counting", "reading"):
        rows = read_examples(drawn / task / "test.jsonl") * 3
        assert Batches(encode_prompts(rows, processing), processing, 64, "left").starts is None


def starts_of(made, examples):
    prompts = encode_prompts(examples, made.processing)
    return prompts, common_starts(prompts, made.processing.image_token_id)


def test_starts_hold_the_image_and_all_equal_words(tiny, on_images):
    made = tiny("qwen2_5_vl")
    examples = on_images()
    prompts, found = starts_of(made, examples)
    assert sorted(place for start in found for place in start.places) == [*range(len(prompts))]
    by_images = {}
    for place, one in enumerate(examples):
        by_images.setdefault(one.images, set()).add(place)
    assert {frozenset(start.places) for start in found} == set(map(frozenset, by_images.values()))
    token = made.processing.image_token_id
    for start in found:
        begun = {prompts[place].input_ids[: start.tokens] for place in start.places}
        assert len(begun) == 1
        for place in start.places:
            assert token not in prompts[place].input_ids[start.tokens :]
            assert len(prompts[place]) > start.tokens
        if len(start.places) == 1:
            assert start.tokens == len(prompts[start.places[0]]) - 1


def test_copies_of_a_picture_are_one_and_equal_prompts_share_all_but_a_token(tiny, tmp_path):
    made = tiny("llava")
    path = picture(tmp_path, 1)
    copy = tmp_path / "copy.png"
    copy.write_bytes(path.read_bytes())
    rows = [example(n, [ImagePart(one), TextPart("How?")]) for n, one in enumerate((path, copy))]
    prompts, found = starts_of(made, rows)
    assert [(start.places, start.tokens) for start in found] == [((0, 1), len(prompts[0]) - 1)]


def test_few_common_words_do_not_undo_a_long_start(monkeypatch):
    prompts = texts((90,) * 6 + (12,), alone=())
    found = common_starts(prompts, None)
    assert sorted(len(start.places) for start in found) == [1, 6]
    assert pays(found, prompts)
    monkeypatch.setattr(sharing, "LEAST_START", 400)
    found = common_starts(prompts, None)
    assert len(found) == 7 and not pays(found, prompts)


@pytest.mark.parametrize(("questions", "worth"), [(1, False), (2, True), (6, True)])
def test_two_questions_an_image_are_worth_it_and_one_is_not(tiny, on_images, questions, worth):
    made = tiny("llava")
    rows = [row for row in on_images("0123450123450123450123450123450123450"[: 6 * questions])]
    rows = [row for row in rows if len(row.images) == 1]
    assert pays(starts_of(made, rows)[1], starts_of(made, rows)[0]) is worth
