"""Test files on the command line: FILE or FILE:METRIC, told apart, named apart."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from narrowtune.cli.tasks import given_tasks, split_metric, task_name
from narrowtune.cli.train import shorthand
from narrowtune.errors import InputError
from narrowtune.evaluation import METRICS
from narrowtune.experiment import MetricName, parse_experiment


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("test.jsonl", "odd:name.jsonl", "odd:number", "both", "both:clock"):
        (tmp_path / name).write_text("")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("test.jsonl", ("test.jsonl", "option")),
        ("test.jsonl:number", ("test.jsonl", "number")),
        ("gone.jsonl:yes_no", ("gone.jsonl", "yes_no")),  # told later, as a missing file
        ("gone.jsonl", ("gone.jsonl", "option")),
        ("odd:name.jsonl", ("odd:name.jsonl", "option")),
        ("odd:name.jsonl:clock", ("odd:name.jsonl", "clock")),
        ("odd:number", ("odd:number", "option")),
        ("both:clock", ("both", "clock")),
        ("far:away/gone.jsonl", ("far:away/gone.jsonl", "option")),
    ],
)
def test_file_and_metric(given: str, expected: tuple[str, str]) -> None:
    assert split_metric(given, "option") == expected


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            "test.jsonl:numbr",
            "test.jsonl:numbr: no metric is called 'numbr': did you mean 'number'",
        ),
        ("gone.jsonl:yes-no", "did you mean 'yes_no'"),
        ("test.jsonl:", "known: anls, bleu, clock"),
        ("test.jsonl:a b", "known: anls, bleu, clock"),
        ("odd:name.jsonl:exat", "did you mean 'exact'"),
    ],
)
def test_a_metric_misspelt_is_no_missing_file(given: str, says: str) -> None:
    with pytest.raises(InputError) as told:
        split_metric(given)
    assert says in str(told.value)


def test_every_metric_may_be_named() -> None:
    assert set(METRICS) == set(get_args(MetricName))
    assert [split_metric(f"test.jsonl:{name}")[1] for name in METRICS] == list(METRICS)


def test_names_come_from_files_and_differ() -> None:
    files = ["a/test.jsonl:number", "b.jsonl", "c/b.jsonl", "test.jsonl", "../test.jsonl"]
    files += ["a b!.jsonl", "base.jsonl", "鳥.jsonl", "鳥/test.jsonl"]
    names = [task.name for task in given_tasks(files, taken=["a"])]
    assert names == ["a-2", "b", "b-2", "test", "test-2", "a-b", "base-2", "task", "test-3"]
    assert task_name(Path("x/train.jsonl")) == "x"


def test_train_covers_every_file_with_images_and_tells_every_typo() -> None:
    raw = shorthand("m", Path("a/train.jsonl"), ["full"], "t.jsonl", ["b.jsonl", "c.jsonl"], "pics")
    experiment = parse_experiment(raw)
    specs = (*experiment.stages, *experiment.held_out)
    assert [spec.images for spec in specs] == ["pics"] * 3
    with pytest.raises(InputError) as told:
        shorthand("m", Path("x"), ["full"], "t.jsonl:clok", ["b.jsonl:exat", "c.jsonl:optoin"])
    assert [problem.split("'")[-2] for problem in told.value.problems] == [
        "clock",
        "exact",
        "option",
    ]
