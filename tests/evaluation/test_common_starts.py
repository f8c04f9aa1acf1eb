"""Prompts with their common start read once are answered as they are alone, or not shared."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_processors import TEXT
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, Phi3Config, Phi3ForCausalLM
from wide_models import Tiny, with_wide_weights

from narrowtune.data import read_examples, sharing
from narrowtune.data.batches import Batches
from narrowtune.data.batching import collate
from narrowtune.data.encoding import Encoded, encode_prompts
from narrowtune.data.example import Example, ImagePart, Message, TextPart
from narrowtune.data.sharing import common_starts, pays
from narrowtune.evaluation import prepare, score
from narrowtune.models.common_start import prefilled
from narrowtune.models.correcting import AnswerSpace, TokenOffsets
from narrowtune.models.features import encoder_of
from narrowtune.models.generation import evaluating, generate_answers, watched_answers
from narrowtune.models.loading import load_model
from narrowtune.models.processing import load_processing
from narrowtune.models.prompt_cache import ReadPrompts

sys.path.append(str(Path(__file__).parents[1] / "anatomy"))
from tiny_families import tiny_model

IMAGES = ["qwen2_5_vl", "qwen2_vl", "llava", "llava_next", "llava_onevision"]
WORDS = ("How many?", "What is shown here? A red circle and 3 blue squares.", "Yes", "42 is")
NEW = 5
TASKS = ("counting", "reading", "existence")


@pytest.fixture(autouse=True)
def short_starts(monkeypatch):
    """Tiny models' images are few tokens."""
    monkeypatch.setattr(sharing, "LEAST_START", 8)


@pytest.fixture
def on_images(tmp_path):
    """Questions on few images in mixed order, and one each on images and texts of their own."""

    def make(places="0123012340120150"):
        made = [picture(tmp_path, n) for n in range(6)]
        rows = [[ImagePart(made[int(n)]), TextPart(words(k))] for k, n in enumerate(places)]
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


def windowed(tokens):
    config = Gemma3TextConfig(**{**TEXT, "head_dim": 8}, sliding_window=tokens)
    assert "sliding_attention" in config.layer_types
    return with_wide_weights(Gemma3ForCausalLM(config))


def longrope(original):
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, **factors}
    more = {"original_max_position_embeddings": original, "pad_token_id": 0}
    return with_wide_weights(Phi3ForCausalLM(Phi3Config(**TEXT, rope_parameters=rope, **more)))


@pytest.mark.parametrize("family", ["mamba", "rwkv", "jamba", "qwen3_next", "window", "longrope"])
def test_who_cannot_go_on_from_a_start_reads_every_prompt_whole(family):
    made = {"window": lambda: windowed(9), "longrope": lambda: longrope(40)}
    model = made[family]() if family in made else tiny_model(family)
    assert_whole(text_side(model), texts())


def assert_whole(made, asked):
    prompts = batches(made, asked, 5)
    assert prompts.starts is not None
    expected = logits_of(made, apart(prompts))
    found = logits_of(made, prompts)
    assert True not in prompts.starts.tried.values()
    for (one, seen), (other, known) in zip(found, expected, strict=True):
        assert one == other and torch.equal(seen, known)


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
