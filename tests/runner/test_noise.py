"""The noise floor of a metric of whole test sets: values apart, never means of sample scores."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import narrowtune as nt
from narrowtune.evaluation import PreparedTask, TaskResult, score
from narrowtune.evaluation.corpus import corpus_bleu
from narrowtune.record import BASE, Record, predictions_path
from narrowtune.runner import Options, noise

OPTIONS = Options(device="cpu", save_models=False)


def bleu(rows: list[dict[str, Any]]) -> float:
    return corpus_bleu(
        [row["prediction"] for row in rows], [row["references"] for row in rows]
    ).value


def measured(drawn: Path, out: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The reading of a run whose base captions pictures, and the base's own captions."""
    # Whole captions the bundled model gets right; cut off, they are of different worth.
    captions: dict[str, Any] = {"name": "captions", "test": "captions/test.jsonl", "metric": "bleu"}
    captions["max_new_tokens"] = 8
    raw = {
        "model": {"id": "pico-qwen", "dtype": "float32"},
        "stages": [{"name": "counting", "train": "counting/train.jsonl", "train_limit": 2}],
        "held_out": [captions],
        "arms": [{"name": "down", "recipe": "down"}],
        "training": {"steps": 1, "batch_size": 2},
        "evaluate": ["base"],
        "noise_floor": {"batch_sizes": [5]},
    }
    record: Record = nt.run(nt.plan(nt.parse_experiment(raw), drawn), out, options=OPTIONS)
    (reading,) = (row for row in record.readings if row["probe"] == "noise_floor")
    written = predictions_path(out, BASE, BASE, "captions").read_text(encoding="utf-8")
    return reading, [json.loads(line) for line in written.splitlines()]


def test_the_same_answers_are_no_noise(drawn: Path, tmp_path: Path) -> None:
    reading, first = measured(drawn, tmp_path / "run")
    # The case can tell the two apart.
    assert abs(bleu(first) - statistics.fmean(row["score"] for row in first)) > 1e-3
    # fp32 on CPU: no batch size may move an answer of these models.
    assert (reading["value"], reading["flipped"], reading["reworded"]) == (0, 0, 0)


def test_other_answers_are_as_much_noise_as_the_value_moves(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again: list[dict[str, Any]] = []

    def cut_short(model: nn.Module, prepared: PreparedTask) -> TaskResult:
        assert prepared.batches.batch_size == 5
        found = score(model, prepared.again(max_new_tokens=6))
        again.extend(found.samples)
        return found

    monkeypatch.setattr(noise, "score", cut_short)
    reading, first = measured(drawn, tmp_path / "run")
    moved = bleu(again) - bleu(first)
    means = [statistics.fmean(row["score"] for row in rows) for rows in (again, first)]
    assert abs(moved - (means[0] - means[1])) > 1e-3
    assert reading["value"] == pytest.approx(moved, abs=1e-12)
    pairs = list(zip(first, again, strict=True))
    assert reading["reworded"] == sum(a["prediction"] != b["prediction"] for a, b in pairs) / 12
    assert reading["flipped"] == sum(a["score"] != b["score"] for a, b in pairs) / 12
    assert reading["flipped"] > 0
