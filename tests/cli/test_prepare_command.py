"""`data prepare` on the command line: what it prints, what it refuses, what it does not import."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from narrowtune import pico
from narrowtune.cli.prepare import data_prepare_command
from narrowtune.data import check_file
from narrowtune.errors import InputError


def run(*arguments: str) -> tuple[str, str]:
    app = typer.Typer()
    app.command()(data_prepare_command)
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


@pytest.fixture
def refusal() -> Callable[..., str]:
    """What an `InputError` of these arguments says."""

    def of(*arguments: str) -> str:
        with pytest.raises(InputError) as told:
            run(*arguments)
        return str(told.value)

    return of


def test_the_drawn_world_is_drawn(tmp_path: Path) -> None:
    out = tmp_path / "out"
    shown, progress = run("pico", "--out", str(out), "--train", "3", "--test", "2")
    assert f"narrowtune's drawn world in {out}: " in shown and "3 birds/train" in shown
    assert "drawing birds" in progress
    for task in pico.METRICS:
        assert check_file(out / task / "test.jsonl", unique_ids=True) == []
        assert (out / task / "train.jsonl").exists() == (task in pico.TARGETS)
        pico.write(tmp_path / "by hand", task, "test", 2)
        for file in (tmp_path / "by hand" / task).rglob("*.*"):
            same = out / file.relative_to(tmp_path / "by hand")
            assert same.read_bytes() == file.read_bytes()


def test_drawing_goes_on_and_mends(tmp_path: Path) -> None:
    given = ("pico", "--out", str(tmp_path), "--train", "2", "--test", "1")
    run(*given)
    lost, cut = (tmp_path / f"birds/images/train-0-0000{place}.png" for place in (0, 1))
    before = lost.read_bytes(), cut.read_bytes()
    lost.unlink()
    cut.write_bytes(before[1][:-20])
    run(*given)
    assert (lost.read_bytes(), cut.read_bytes()) == before
    cut.write_bytes(before[0])
    run(*given)
    assert cut.read_bytes() == before[1]


def test_the_manifest_as_json(tmp_path: Path) -> None:
    out, _ = run("pico", "--out", str(tmp_path), "--train", "1", "--test", "1", "--json")
    made = json.loads(out)
    assert made == json.loads((tmp_path / "manifest.json").read_text())
    assert made["complete"] and made["rows"]["clock/train"] == 1 and len(made["files"]) == 19


def test_a_wrong_name_names_the_nearest(tmp_path: Path, refusal: Callable[..., str]) -> None:
    told = refusal("pathvq", "--out", str(tmp_path))
    assert told == "no data set is called 'pathvq': did you mean 'pathvqa'?"


def test_options_of_the_other_kind_are_refused(tmp_path: Path, refusal: Callable[..., str]) -> None:
    out = str(tmp_path / "out")
    assert refusal("pico", "--out", out, "--limit", "3", "--from", out).startswith(
        "--from and --limit cannot be given for pico"
    )
    assert refusal("cub200", "--out", out, "--train", "3").startswith("--train cannot be given")
    assert not (tmp_path / "out").exists()


def test_no_torch_behind_it(tmp_path: Path) -> None:
    words = ["data", "prepare", "pico", "--out", str(tmp_path), "--train", "1", "--test", "1"]
    program = (
        "import sys\nfrom narrowtune.cli import app\n"
        f"try: app({words!r})\n"
        "except SystemExit as end: assert not end.code\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
