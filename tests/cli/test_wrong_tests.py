"""Tests that cannot be trusted are refused before any training, all of them at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Run = Callable[..., tuple[int, str, str]]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes (question, answer) pairs as a data file; a third item is the picture's name."""

    def rows(name: str, *given: tuple[str, ...]) -> Path:
        path = tmp_path / name
        with path.open("w", encoding="utf-8") as file:
            for question, answer, *picture in given:
                row: dict[str, Any] = {"images": picture} if picture else {}
                text = f"<image>{question}" if picture else question
                row["messages"] = [
                    {"role": "user", "content": text},
                    {"role": "assistant", "content": answer},
                ]
                file.write(json.dumps(row) + "\n")
        return path

    return rows


@pytest.fixture
def experiment(tmp_path: Path, write: Write) -> Path:
    """Two skills and a held-out ability that leak into one another in three ways."""
    Image.linear_gradient("L").resize((84, 84)).save(tmp_path / "a.png")
    Image.open(tmp_path / "a.png").save(tmp_path / "again.bmp")
    write("add.train.jsonl", ("1 + 1?", "2"), ("2 + 2?", "4"), ("3 + 3?", "6"))
    write("add.test.jsonl", ("4 + 4?", "8"), ("2 + 2 ?", "4"))
    write("see.train.jsonl", ("How dark?", "5", "a.png"), ("4 + 4?", "8"))
    write("see.test.jsonl", ("How dark?", "5", "b.png"))
    write("held.jsonl", ("Is it dark?", "no", "again.bmp"), ("Is 1 more than 2?", "no"))
    Image.linear_gradient("L").rotate(90).resize((84, 84)).save(tmp_path / "b.png")
    path = tmp_path / "experiment.yaml"
    path.write_text("""
model: {id: pico-qwen, dtype: float32}
stages:
  - {name: add, train: add.train.jsonl, test: add.test.jsonl, metric: number}
  - {name: see, train: see.train.jsonl, test: see.test.jsonl, metric: number}
held_out: [{name: held, test: held.jsonl, metric: yes_no}]
arms: [{name: gate-up, recipe: gate-up}]
""")
    return path


def test_every_leak_is_told_with_places_and_what_to_do(
    narrowtune: Run, experiment: Path, tmp_path: Path
) -> None:
    code, _, err = narrowtune("run", experiment, "--out", tmp_path / "run")
    told = " ".join(err.split())
    assert code == 1 and not (tmp_path / "run").exists()
    own = f"{tmp_path}/add.test.jsonl:2 (as {tmp_path}/add.train.jsonl:2)"
    other = f"{tmp_path}/add.test.jsonl:1 (as {tmp_path}/see.train.jsonl:2)"
    picture = f"{tmp_path}/held.jsonl:1 (as {tmp_path}/see.train.jsonl:1)"
    assert f"task add: 1 of 2 test rows ask questions that add trains on: {own}" in told
    assert f"task add: 1 of 2 test rows ask questions that see trains on: {other}" in told
    assert f"task held: 1 of 2 test rows show pictures that see trains on: {picture}" in told
    assert "stages.0.allow_overlap=questions" in told
    assert "held_out.0.allow_overlap=images" in told
    assert told.count("allow it with") == 3


def test_what_is_allowed_is_noted_in_plan_and_record(
    narrowtune: Run, experiment: Path, tmp_path: Path
) -> None:
    allow = ("-o", "stages.0.allow_overlap=true", "-o", "held_out.0.allow_overlap=[images]")
    code, out, _ = narrowtune("plan", experiment, *allow)
    assert code == 0 and out.count("(allowed)") == 3
    code, out, _ = narrowtune("plan", experiment, *allow, "--json")
    planned = json.loads(out)["overlaps"]
    assert [(o["task"], o["stage"], o["kind"], o["rows"]) for o in planned] == [
        ("add", "add", "questions", 1),
        ("add", "see", "questions", 1),
        ("held", "see", "images", 1),
    ]
    steps = ("-o", "training.steps=1", "-o", "evaluate=[]", "--no-save-models", "--device", "cpu")
    code, out, err = narrowtune(
        "run", experiment, *allow, *steps, "--out", tmp_path / "run", "--json"
    )
    assert code == 0 and err.count("(allowed)") == 3
    assert json.loads((tmp_path / "run" / "record.json").read_text())["plan"]["overlaps"] == planned


def test_permission_for_one_kind_is_none_for_the_other(narrowtune: Run, experiment: Path) -> None:
    code, _, err = narrowtune("plan", experiment, "-o", "stages.0.allow_overlap=images")
    assert code == 1 and err.count("allow it with") == 3
    code, _, err = narrowtune("plan", experiment, "-o", "stages.0.allow_overlap=pictures")
    assert code == 1 and "'pictures' is not one of its values; known: images, questions" in err


def test_train_refuses_them_too(narrowtune: Run, write: Write, tmp_path: Path) -> None:
    train = write("skill.jsonl", ("1 + 1?", "2"), ("2 + 2?", "4"))
    held = write("held.jsonl", ("1 + 1?", "2"))
    words = ("train", "pico-qwen", train, "--held-out", f"{held}:number", "--out", tmp_path / "run")
    code, _, err = narrowtune(*words)
    assert code == 1 and not (tmp_path / "run").exists()
    assert f"{held}:1 (as {train}:1)" in " ".join(err.split())
    code, _, err = narrowtune(*words[:-2], "--test", f"{train}:number", "--out", tmp_path / "run")
    assert code == 1 and "2 of 2 test rows ask questions that skill trains on" in err


def test_all_that_is_wrong_with_tests_comes_at_once(
    narrowtune: Run, experiment: Path, write: Write, tmp_path: Path
) -> None:
    write("add.test.jsonl", ("9 + 9?", "often"), ("2 + 2?", "4"))
    write("see.test.jsonl")
    (tmp_path / "held.jsonl").write_text("{}\n[]\nnothing\n")
    for model in ("pico-qwen", "pico-qwn"):  # a model that is not there hides none of it
        code, _, err = narrowtune("plan", experiment, "-o", f"model.id={model}")
        told = " ".join(err.split())
        assert code == 1
        assert "metric 'number' finds no number in the reference 'often'" in told
        assert f"task see: {tmp_path}/see.test.jsonl: it holds no examples" in told
        assert all(f"held.jsonl:{line}: " in told for line in (1, 2, 3))
        assert "task add: 1 of 2 test rows ask questions that add trains on" in told


def test_data_check_against_a_training_file(narrowtune: Run, write: Write, tmp_path: Path) -> None:
    train = write("train.jsonl", ("1 + 1?", "2"), ("2 + 2?", "4"))
    test = write("test.jsonl", ("3 + 3?", "6"), ("2 + 2?", "4"))
    other = write("other.jsonl", ("5 + 5?", "10"))
    assert narrowtune("data", "check", test, "--against", other)[0] == 0
    code, out, _ = narrowtune("data", "check", test, "--against", train, "--against", other)
    assert code == 1
    assert out.splitlines() == [
        f"1 of 2 test rows ask questions that {train} trains on: {test}:2 (as {train}:2)",
        f"{test}: 2 sound examples with 0 images, 1 problems",
    ]
    told = json.loads(narrowtune("data", "check", test, "--against", train, "--json")[1])
    assert [(one["kind"], one["rows"]) for one in told["overlaps"]] == [("questions", 1)]
    other.write_text("{}\n")
    code, _, err = narrowtune("data", "check", test, "--against", other)
    assert code == 1 and f"{other}:1: neither format is recognised" in " ".join(err.split())
