"""The comparison of packed batches with padded ones, at a size of seconds: it must not rot."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks is no installed package

from benchmarks.models import drawn_model, processing_of
from benchmarks.packing import CASES, PICO, race, rows_of, variants
from narrowtune.anatomy import Anatomy


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("pico")])
def test_all_variants_compute_the_same(case: str, tmp_path: Path) -> None:
    place = PICO["pico-qwen"].write(tmp_path / "model")
    processing, model = processing_of(place), drawn_model(place)
    Anatomy.of(model).select(["gate-up"]).apply(model)
    rows = rows_of(case, processing, tmp_path)
    found = variants(model, processing, rows, share=False)
    race(model, found, rounds=1)  # raises where losses differ
    assert [len(one.timing.cpu) for one in found.values()] == [1, 1, 1]
    packed = found["by segments"]
    assert packed.batch.inputs["input_ids"].shape == (1, sum(map(len, rows)))
    assert sum(bool(row.example.images) for row in rows) == (32 if case == "pico" else 16)


def test_other_losses_are_refused(tmp_path: Path) -> None:
    place = PICO["pico-qwen"].write(tmp_path / "model")
    processing, model = processing_of(place), drawn_model(place)
    rows = rows_of("pico", processing, tmp_path)
    found = variants(model, processing, rows, share=False)
    found["padded"].batch.supervised[0, 5] = True
    with pytest.raises(AssertionError, match="different losses"):
        race(model, found, rounds=0)
