"""The record on disk: whole or not at all, and refused when it is not one of ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from narrowtune.errors import InputError
from narrowtune.experiment import parse_experiment
from narrowtune.record import Record, read_record, write_predictions, write_record


@pytest.fixture
def record() -> Record:
    experiment = parse_experiment(
        {
            "model": {"id": "pico-qwen"},
            "stages": [{"name": "a", "train": "a.jsonl"}],
            "arms": [{"name": "x", "recipe": "attention"}],
        }
    )
    return Record(experiment=experiment, digest="0" * 64)


def test_a_record_reads_back_equal(record: Record, tmp_path: Path) -> None:
    path = write_record(record, tmp_path)
    assert read_record(path) == read_record(tmp_path) == record
    assert [file.name for file in tmp_path.iterdir()] == ["record.json"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not a valid record"),
        ("\xff", "not a valid record"),
        ("[]", "not a valid record"),
        ('{"schema_version": 99}', "record schema 99"),
        ('{"schema_version": 1}', "not a valid record"),
    ],
)
def test_what_is_no_record_is_refused(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=says):
        read_record(tmp_path)


def test_predictions_are_a_line_a_sample(tmp_path: Path) -> None:
    rows = [{"id": "a", "prediction": "é\n"}, {"id": "b", "prediction": ""}]
    path = tmp_path / "p" / "task.jsonl"
    write_predictions(path, rows)
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == rows
