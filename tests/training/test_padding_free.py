"""Batches with much padding are written without any, and all others stay what they were."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

sys.path += [str(Path(__file__).parents[1] / room) for room in ("data", "evaluation")]
from text_side import TextSide
from tiny_processors import TEXT
from wide_models import with_wide_weights

from narrowtune import pico
from narrowtune.data import read_examples
from narrowtune.data.batching import Batch, collate
from narrowtune.data.encoding import Encoded, encode_all
from narrowtune.data.example import Example
from narrowtune.data.sharing import Limits
from narrowtune.models.loading import load_model
from narrowtune.models.packed import attending_by_segments
from narrowtune.models.processing import load_processing
from narrowtune.models.segments import segment_table
from narrowtune.training import packing
from narrowtune.training.loop import answer_loss
from narrowtune.training.packing import Packing
from narrowtune.training.padding_free import PaddingFree


def drawn(*lengths: int) -> list[Encoded]:
    draw = torch.Generator().manual_seed(3)

    def sample(length: int) -> Encoded:
        ids = torch.randint(30, 60, (length,), generator=draw).tolist()
        taught = (False,) * (length - 3) + (True,) * 3
        return Encoded(Example("", (), "t.jsonl:7", ("",)), tuple(ids), taught, length - 3)

    return [sample(length) for length in lengths]


ROWS = drawn(40, 20, 20, 20, 38, 37, 4)


def llama() -> Any:
    return with_wide_weights(LlamaForCausalLM(LlamaConfig(**TEXT)))


def padded(rows: list[Encoded], processing: Any = None) -> Batch:
    return collate(rows, processing or TextSide(), padding_side="right")


def same(one: Batch, other: Batch) -> bool:
    alike = one.inputs.keys() == other.inputs.keys()
    return alike and all(one.inputs[name].equal(tensor) for name, tensor in other.inputs.items())


def mean_loss(model: Any, batch: Batch) -> float:
    with torch.no_grad():
        return float(answer_loss(model, batch)) / batch.supervised_tokens


def test_a_tenth_of_padding_is_where_it_begins() -> None:
    model, told = llama(), list[str]()
    with attending_by_segments(model):
        make = PaddingFree(model, TextSide(), ROWS, told.append)
        for few in ([ROWS[0], ROWS[4]], [ROWS[0], ROWS[4], ROWS[5]], ROWS[1:4], [ROWS[0]]):
            assert same(make(few), padded(few))
        batch = make(ROWS)
        assert batch.inputs["input_ids"].shape == (1, sum(map(len, ROWS)))
        assert sorted(map(id, batch.rows)) == sorted(map(id, ROWS))
        expected = mean_loss(model, padded(ROWS))
        assert mean_loss(model, batch) == pytest.approx(expected, rel=1e-5)
    assert told == []


def test_images_go_along(tmp_path: Path) -> None:
    model = load_model("pico-llava", device="cpu", dtype="float32")
    processing = load_processing("pico-llava")
    pico.write(tmp_path, "counting", "train", 3)
    seen = encode_all(read_examples(tmp_path / "counting" / "train.jsonl"), processing)
    token = processing.image_token_id
    rows = [*seen, *(replace(one, input_ids=(5, *one.input_ids[-8:])) for one in drawn(9, 9))]
    texts = [replace(one, supervised=(False,) * 6 + (True,) * 3) for one in rows[3:]]
    rows = [*seen, *texts]
    with attending_by_segments(model):
        batch = PaddingFree(model, processing, rows, pytest.fail)(rows)
        assert len(batch.inputs["input_ids"]) == 1
        shown = sum(one.input_ids.count(token) for one in seen)
        assert int((batch.inputs["input_ids"] == token).sum()) == shown
        assert (
            batch.inputs["pixel_values"].shape
            == padded(rows, processing).inputs["pixel_values"].shape
        )
        expected = mean_loss(model, padded(rows, processing))
        assert mean_loss(model, batch) == pytest.approx(expected, rel=1e-5)


def test_no_model_is_masked_for_it() -> None:
    """A mask over all samples of a batch would compute more than padding does."""
    model = llama()
    make = PaddingFree(model, TextSide(), ROWS, pytest.fail)
    assert same(make(ROWS), padded(ROWS))


def test_what_fails_on_trial_stays_padded_and_is_told_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def leaky(model: Any, places: Any, width: int) -> torch.Tensor:
        return segment_table([[list(range(width))]], width)

    monkeypatch.setattr(packing, "block_mask", leaky)
    model, told = llama(), list[str]()
    with attending_by_segments(model):
        make = PaddingFree(model, TextSide(), ROWS, told.append)
        assert same(make(ROWS), padded(ROWS)) and same(make(ROWS[:3]), padded(ROWS[:3]))
    (note,) = told
    assert note.startswith("note: batches of text keep their padding: samples of tiny cannot")


def test_batches_with_a_sample_that_is_too_long_stay_padded() -> None:
    windows = {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 39}
    model = with_wide_weights(Qwen2ForCausalLM(Qwen2Config(**TEXT, **windows)))
    with attending_by_segments(model):
        make = PaddingFree(model, TextSide(), ROWS, pytest.fail)
        assert same(make(ROWS), padded(ROWS))
        assert len(make(ROWS[1:]).inputs["input_ids"]) == 1


def test_trials_are_made_once_and_before_the_first_batch() -> None:
    model = llama()
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    with attending_by_segments(model):
        PaddingFree(model, TextSide(), drawn(40, 38, 37), pytest.fail)
        assert not calls  # no batch of these could have much padding
        make = PaddingFree(model, TextSide(), ROWS, pytest.fail)
        assert len(calls) == 2
        make(ROWS)
        make(ROWS[:3])
        assert len(calls) == 2


def test_a_mask_and_segments_are_tried_each_for_itself() -> None:
    model = llama()
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    pack = Packing(model, TextSide(), Limits(share=False))
    pack(ROWS)
    masked = len(calls)
    with attending_by_segments(model):
        assert pack(ROWS).inputs["attention_mask"].dtype == torch.int8
    assert len(calls) == masked + 2
    assert pack(ROWS).inputs["attention_mask"].dtype == torch.bool and len(calls) == masked + 2
