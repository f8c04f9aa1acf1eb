"""The example that teaches an image's questions together runs, and learns something."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

import narrowtune as nt
from narrowtune import pico
from narrowtune.delta import verify

EXAMPLES = Path(__file__).parents[2] / "examples" / "own_loop"
QUESTIONS = {"How many circles are there?": "3", "How many stars are there?": "1", "A boat?": "no"}


def test_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pico.write(tmp_path, "counting", "train", 4)
    images = sorted((tmp_path / "counting").rglob("*.png"))
    rows = [
        {
            "images": [str(image)],
            "messages": [
                {"role": "user", "content": f"<image>{question}"},
                {"role": "assistant", "content": answer},
            ],
        }
        for question, answer in QUESTIONS.items()
        for image in images
    ]
    data, out = tmp_path / "questions.jsonl", tmp_path / "out"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.syspath_prepend(EXAMPLES)
    importlib.import_module("packed_questions").main("pico-qwen", str(data), str(out))
    told = capsys.readouterr().out
    assert "12 samples in 4 items" in told and "frozen tensors changed: none" in told
    (checkpoint,) = out.glob("checkpoint-*")
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    assert state["global_step"] == 4  # two epochs of two steps of two images
    delta = nt.read_delta(out / "delta.safetensors")
    assert all(check.passed for check in verify(nt.load("pico-qwen", device="cpu"), delta))
