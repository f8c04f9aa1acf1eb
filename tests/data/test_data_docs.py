"""What docs/data.md shows is what happens."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from narrowtune.data import read_examples
from narrowtune.data.encoding import encode
from narrowtune.models.processing import load_processing

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    return [text for kind, text in found if kind == language]


@pytest.fixture
def here(
    tmp_path: Path, picture: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    picture("circles.png")
    monkeypatch.chdir(tmp_path)
    messages, llava = blocks("json")
    Path("train.jsonl").write_text(messages)
    Path("train.json").write_text(llava)
    return Path("train.jsonl"), Path("train.json")


def test_both_formats_give_the_same_tokens(here: tuple[Path, Path]) -> None:
    processing = load_processing("pico-llava")
    first, second = (encode(read_examples(path)[0], processing) for path in here)
    assert (first.input_ids, first.supervised) == (second.input_ids, second.supervised)
    assert json.loads(here[1].read_text())[0]["id"] == second.example.id


def test_the_mask_looks_as_shown(
    here: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = blocks("python")
    exec(compile(code, "docs/data.md", "exec"), {})
    shown = blocks("")[-1]
    assert capsys.readouterr().out == shown
