"""The benchmark of common starts, at a size of seconds: it must not rot.

That the ways' answers are equal is `timed`'s own condition.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks is no installed package

from benchmarks.generation import TASKS, Asked, prompts_of, timed
from benchmarks.models import Shape, drawn_model, processing_of
from benchmarks.scenes import Scene
from narrowtune.data import sharing

TINY = {
    "six": Asked(Scene("six", (84,), questions=6, rows=24)),
    "two": Asked(Scene("two", (84,), questions=2, rows=24, prompt=(3, 9))),
    "text": Asked(Scene("text", (), rows=24, prompt=(2, 9)), lead=30),
}


@pytest.mark.parametrize("task", TASKS)
def test_all_ways_answer_alike(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "LEAST_START", 8)
    monkeypatch.setattr(sharing, "MOST_READ", 0.9)
    folder = Shape("Qwen", "pico-qwen", {}).write(tmp_path / "model")
    prompts = prompts_of(TINY[task], processing_of(folder), tmp_path)
    timings = timed(drawn_model(folder), prompts, rounds=1, new_tokens=3)
    assert [len(timing.cpu) for timing in timings.values()] == [1, 1, 1]
