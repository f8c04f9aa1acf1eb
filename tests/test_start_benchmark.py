"""The benchmark of the start, at a size of seconds: it must not rot."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks is no installed package

from benchmarks.start import PARTS, picture_rows, started, text_rows


@pytest.mark.parametrize("kind", ["text", "pictures"])
def test_every_part_is_measured(kind: str, tmp_path: Path) -> None:
    if kind == "text":
        train, test = text_rows(40, tmp_path), text_rows(10, tmp_path)
    else:
        train, test = picture_rows(40, tmp_path), picture_rows(10, tmp_path, "test")
    seconds, _, tokens = started("pico-qwen", train, test)
    assert set(seconds) == set(PARTS)
    assert all(one >= 0 for one in seconds.values()) and tokens > 20
    assert min(seconds["chat template"], seconds["tokenizer"]) > 0
