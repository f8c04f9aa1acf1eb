"""The benchmark of what a graph keeps compares ways that compute the same."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks is no installed package


from benchmarks import kept_graph
from benchmarks.scenes import Scene, lesson
from narrowtune.anatomy import Anatomy
from narrowtune.models.loading import load_model
from narrowtune.models.processing import load_processing


def test_the_ways_agree_and_one_that_does_not_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model("pico-qwen", device="cpu").train()
    Anatomy.of(model).select(["language"]).apply(model)
    scene = Scene("small", (84,), rows=2)
    batch = lesson(scene, "language", load_processing("pico-qwen"), tmp_path, 1).batches[0]
    timings = kept_graph.timed(model, batch, rounds=1)
    assert set(timings) == set(kept_graph.WAYS)
    assert all(len(timing.cpu) == 1 for timing in timings.values())
    step = kept_graph.step

    def wrong(model, batch, way):  # type: ignore[no-untyped-def]
        found = step(model, batch, way)
        return found if way != kept_graph.AGAIN else found | {"loss": found["loss"] * 1.0000002}

    monkeypatch.setattr(kept_graph, "step", wrong)
    with pytest.raises(AssertionError, match="loss differs"):
        kept_graph.timed(model, batch, rounds=1)
