"""`data check` prints every problem and answers with its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import typer
from typer.testing import CliRunner

from narrowtune.cli.data import data_check_command

GOOD = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


def run(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(data_check_command)
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout


def test_a_sound_file(tmp_path: Path) -> None:
    path = tmp_path / "good.jsonl"
    path.write_text(GOOD)
    code, out = run(str(path))
    assert code == 0 and out == f"{path}: 1 sound examples with 0 images, 0 problems\n"
    assert json.loads(run(str(path), "--json")[1])["examples"] == 1


def test_every_problem_is_printed(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(GOOD + "{}\n" * 30)
    code, out = run(str(path))
    assert code == 1 and len(out.splitlines()) == 31
    assert out.startswith(f"{path}:2: ")
    code, out = run(str(path), "--json")
    assert code == 1 and len(json.loads(out)["problems"]) == 30


def test_repeated_ids_are_a_note_or_with_test_problems(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(GOOD.replace("{", '{"id": 7, ', 1) * 3)
    code, out = run(str(path))
    note, summary = out.splitlines()
    assert code == 0 and summary == f"{path}: 3 sound examples with 0 images, 0 problems"
    assert note.startswith(f"note: 2 rows repeat ids, first {path}:2: id '7' is taken by {path}:1;")
    code, out = run(str(path), "--test")
    assert code == 1 and len(out.splitlines()) == 3 and "note: " not in out
    told = json.loads(run(str(path), "--json")[1])
    assert (told["repeated_ids"], told["problems"]) == (2, [])
    assert len(json.loads(run(str(path), "--json", "--test")[1])["problems"]) == 2
