"""`narrowtune probe` on a real delta, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from narrowtune import pico
from narrowtune.cli import app
from narrowtune.errors import InputError
from narrowtune.experiment import parse_experiment
from narrowtune.runner import Options, plan, run


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Test files and the delta of two steps of counting."""
    folder = tmp_path_factory.mktemp("probe")
    pico.write(folder, "counting", "train", 32)
    for task in ("existence", "captions"):
        pico.write(folder, task, "test", 4)
    experiment = parse_experiment(
        {
            "model": {"id": "pico-qwen", "dtype": "float32"},
            "stages": [{"name": "counting", "train": "counting/train.jsonl"}],
            "arms": [{"name": "gate-up", "recipe": "gate-up"}],
            "training": {"steps": 2, "batch_size": 16, "learning_rate": 3e-3},
        }
    )
    run(plan(experiment, folder), folder / "run", options=Options("cpu", save_models=False))
    return folder


def probe(*more: str) -> str:
    done = CliRunner().invoke(app, ["probe", "pico-qwen", "--device", "cpu", *more])
    assert done.exit_code == 0, done.output
    return done.stdout


def delta(home: Path) -> str:
    return str(home / "run/arms/gate-up/counting/delta.safetensors")


def test_json_holds_base_and_delta(home: Path) -> None:
    said = probe(
        "--task", str(home / "existence/test.jsonl"), "--delta", delta(home), "--json",
        "--max-new-tokens", "4",
    )  # fmt: skip
    found = json.loads(said)
    kl = {
        who: [row["value"] for row in found[who] if (row["probe"], row["at"]) == ("kl", "first")]
        for who in ("base", "delta")
    }
    assert kl["base"] == [0.0]
    assert kl["delta"][0] > 1e-4
    assert {row["task"] for row in found["delta"]} == {"existence", "captions"}
    assert all(row["n"] == 4 for row in found["delta"] if row["probe"] == "number_bias")


def test_layers_are_a_table_of_where_the_shift_is_written(home: Path) -> None:
    asked = ["--task", str(home / "existence/test.jsonl"), "--probe", "layers"]
    said = probe(*asked, "--delta", delta(home))
    rows = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line.strip()}
    # gate-up leaves attention alone, so what the first layer's attention writes is as before
    assert rows["embed"] == rows["attention.0"] == ["0.000"] * 3
    assert float(rows["mlp.0"][0]) > float(rows["mlp.0"][1]) > 0
    assert rows["mlp.3"][3].strip("█") == ""
    assert "KL" not in said
    assert "mlp.0" not in probe(*asked)  # the base beside itself


def test_half_a_delta_moves_less(home: Path) -> None:
    def moved(*more: str) -> float:
        said = probe(
            "--task", str(home / "existence/test.jsonl"), "--delta", delta(home), "--json",
            "--probe", "kl", *more,
        )  # fmt: skip
        rows = json.loads(said)["delta"]
        return next(r["value"] for r in rows if (r["probe"], r["at"]) == ("kl", "all"))

    assert moved("--alpha", "0") == 0.0
    assert 0 < moved("--alpha", "0.5") < moved()


def test_the_table_names_every_task(home: Path) -> None:
    said = probe(
        "--task", str(home / "existence/test.jsonl"), "--task", str(home / "captions/test.jsonl"),
        "--probe", "answer_bias",
    )  # fmt: skip
    assert "existence" in said
    assert "captions" in said
    assert "number bias of" not in said


def test_everything_wrong_is_told_together() -> None:
    asked = ["probe", "pico-qwen", "--task", "a.jsonl", "--task", "b.jsonl", "--delta", "c"]
    done = CliRunner().invoke(app, asked)
    assert isinstance(done.exception, InputError)
    assert len(done.exception.problems) == 3


def test_a_share_of_no_delta_is_refused(home: Path) -> None:
    asked = ["probe", "pico-qwen", "--task", str(home / "existence/test.jsonl"), "--alpha", "0.5"]
    done = CliRunner().invoke(app, asked)
    assert isinstance(done.exception, InputError)
    assert "no delta is given" in str(done.exception)
