"""What no gradient can reach is refused or told before training, or told after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import narrowtune as nt
from narrowtune.errors import InputError
from narrowtune.runner import Observer, Options, Plan


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training rows without a single image."""
    folder = tmp_path_factory.mktemp("words")
    turns = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "3"}]
    (folder / "train.jsonl").write_text(f"{json.dumps({'messages': turns})}\n" * 8)
    return folder


def plan_of(words: Path, *terms: str, stages: list[dict[str, Any]] | None = None) -> Plan:
    raw = {
        "model": {"id": "pico-qwen", "dtype": "float32"},
        "stages": stages or [{"name": "words", "train": str(words / "train.jsonl")}],
        "arms": [{"name": "mine", "train": list(terms)}],
        "training": {"batch_size": 4, "learning_rate": 1e-3},
    }
    return nt.plan(nt.parse_experiment(raw), words)


@pytest.mark.parametrize("terms", [["vision"], ["connector", "vision.attn.q"]])
def test_training_only_what_reads_images_without_images_is_refused(
    words: Path, terms: list[str]
) -> None:
    with pytest.raises(InputError, match=r"no sample of .*train\.jsonl has an image") as caught:
        plan_of(words, *terms)
    assert "arm mine at stage words: it trains only" in str(caught.value)


def test_training_it_beside_language_is_a_note(words: Path) -> None:
    (arm,) = plan_of(words, "full").to_dict()["arms"]
    assert "stage words: no sample has an image, so vision and connector stay" in arm["notes"][-1]
    assert plan_of(words, "gate-up").to_dict()["arms"][0]["notes"] == []


def test_images_in_the_stage_make_no_note(words: Path, drawn: Path) -> None:
    stages = [{"name": "counting", "train": str(drawn / "counting/train.jsonl")}]
    assert plan_of(words, "full", stages=stages).to_dict()["arms"][0]["notes"] == []


def test_text_rows_among_images_teach_a_vision_tower_nothing(
    words: Path, drawn: Path, tmp_path: Path
) -> None:
    """Micro-batches of text alone have no gradient to give; the others do."""
    images = (drawn / "counting" / "train.jsonl").read_text().splitlines()[:4]
    text = (words / "train.jsonl").read_text().splitlines()
    mixed = drawn / "counting" / "few_images.jsonl"
    mixed.write_text("\n".join([*images, *text]))
    stages = [{"name": "mixed", "train": str(mixed), "training": {"micro_batch_size": 1}}]
    plan = plan_of(words, "vision.attn.q", stages=stages)
    record = nt.run(plan, tmp_path / "r", options=Options(device="cpu", save_models=False))
    assert record.status == "complete" and record.ledger[0].held
    assert max(row.grad_norm for row in record.losses) > 0


def test_a_run_says_which_parameters_no_gradient_reached(words: Path, tmp_path: Path) -> None:
    heard: list[str] = []

    class Listener(Observer):
        def note(self, text: str) -> None:
            heard.append(text)

    options = Options(device="cpu", save_models=False)
    record = nt.run(plan_of(words, "full"), tmp_path / "r", options=options, observer=Listener())
    (told,) = [text for text in heard if "no gradient reached" in text]
    assert "visual" in told
    assert record.status == "complete" and all(row.held for row in record.ledger)
