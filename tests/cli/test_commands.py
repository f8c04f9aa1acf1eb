"""The command line as users meet it: exit codes, one message, nothing lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import narrowtune as nt
from narrowtune.cli.train import shorthand
from narrowtune.record import read_record

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def experiment(drawn: Path) -> Callable[..., Path]:
    """Writes an experiment file beside the drawn data; keyword arguments replace its keys."""

    def write(name: str = "experiment", **changes: Any) -> Path:
        stage = {"name": "counting", "train": "counting/train.jsonl", "max_new_tokens": 4}
        raw: dict[str, Any] = {
            "model": {"id": "pico-qwen", "dtype": "float32"},
            "stages": [stage | {"test": "counting/test.jsonl", "metric": "number"}],
            "held_out": [{"name": "existence", "test": "existence/test.jsonl", "metric": "yes_no"}],
            "arms": [{"name": "gate-up", "recipe": "gate-up"}],
            "training": {"batch_size": 16, "learning_rate": 1e-3},
        }
        path = drawn / f"{name}.yaml"
        path.write_text(json.dumps(raw | changes))  # JSON is YAML
        return path

    return write


def test_run_then_report(narrowtune: Run, experiment: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, printed, _ = narrowtune("run", experiment(), "--out", out, "--device", "cpu")
    assert code == 0
    assert "gate-up" in printed and "report:" in printed
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "counting" in page
    assert (out / "models/gate-up/config.json").exists()
    assert (out / "models/gate-up/tokenizer.json").exists()
    code, printed, _ = narrowtune("report", out)
    assert code == 0 and "existence" in printed
    # Python says the same sentence about the same run.
    assert nt.headline(read_record(out), out) in " ".join(printed.split())
    code, _, err = narrowtune("report", out.parent)
    assert code == 1 and f"did you mean {out}?" in err
    code, _, err = narrowtune("run", experiment(), "--out", out)
    assert code == 1 and "already holds a run (complete)" in err
    assert err.count("\n") == 1


def test_json_goes_to_stdout_alone(
    narrowtune: Run, experiment: Callable[..., Path], tmp_path: Path
) -> None:
    code, printed, err = narrowtune("run", experiment(), "--out", tmp_path / "r", "--json")
    assert code == 0
    assert json.loads(printed)["status"] == "complete"
    assert "teaching counting" in err


def test_train_is_a_shorthand(narrowtune: Run, drawn: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, printed, _ = narrowtune(
        "train", "pico-qwen", drawn / "counting/train.jsonl", "--recipe", "attention",
        "--test", f"{drawn}/counting/test.jsonl:number", "--out", out, "--no-save-models",
        "--held-out", f"{drawn}/existence/test.jsonl:yes_no", "-o", "training.steps=2",
    )  # fmt: skip
    assert code == 0, printed
    record = read_record(out)
    assert [score.metric for score in record.scores[:2]] == ["number", "yes_no"]
    assert [row.steps for row in record.cost] == [2]


def test_the_shorthand_names_tasks_apart() -> None:
    held_out = ["a/test.jsonl", "b.jsonl", "c/b.jsonl"]
    raw = shorthand("m", Path("a/train.jsonl"), ["language.mlp[0:2]", "down"], None, held_out)
    assert raw["stages"][0]["name"] == "a"
    assert [task["name"] for task in raw["held_out"]] == ["a-2", "b", "b-2"]
    assert raw["arms"] == [
        {"name": "language.mlp-0-2-+down", "train": ["language.mlp[0:2]", "down"]}
    ]


def test_all_problems_at_once(
    narrowtune: Run, experiment: Callable[..., Path], drawn: Path, tmp_path: Path
) -> None:
    rows = (drawn / "counting/train.jsonl").read_text().splitlines()
    broken = json.loads(rows[1])
    broken["messages"][1]["content"] = ""
    gone = json.loads(rows[2].replace("images/", "nowhere/"))
    bad = drawn / "counting/bad.jsonl"
    bad.write_text("\n".join([rows[0], json.dumps(broken), json.dumps(gone)]))
    stage = {"name": "counting", "train": "counting/bad.jsonl"}
    arms = [{"name": "a", "train": ["language.atn"]}, {"name": "b", "recipe": "gateup"}]
    out = tmp_path / "run"
    code, _, err = narrowtune("run", experiment("bad", stages=[stage], arms=arms), "--out", out)
    assert code == 1
    assert "'language.attn'" in err and "'gate-up'" in err
    assert "bad.jsonl:2" in err and "bad.jsonl:3" in err
    assert "Traceback" not in err
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["inspect", "pico-qwe"], "pico-qwen"),
        (["select", "pico-qwen", "language.mlp.gat"], "language.mlp.gate"),
        (["run", "nowhere.yaml", "--out", "x"], "no experiment file at nowhere.yaml"),
        (["report", "nowhere"], "no record at"),
    ],
)
def test_wrong_input_is_one_message(narrowtune: Run, arguments: list[str], says: str) -> None:
    code, _, err = narrowtune(*arguments)
    assert code == 1
    assert says in err
    assert "Traceback" not in err


def test_usage_errors_exit_with_2(narrowtune: Run) -> None:
    assert narrowtune("run")[0] == 2
    assert narrowtune("nonsense")[0] == 2


def test_a_diverged_run_says_so(
    narrowtune: Run, experiment: Callable[..., Path], tmp_path: Path
) -> None:
    training = {"batch_size": 16, "learning_rate": 1e30, "warmup": 0.0, "max_grad_norm": 1e30}
    out = tmp_path / "run"
    code, _, err = narrowtune("run", experiment("diverge", training=training), "--out", out)
    assert code == 1 and "loss nan" in err
    assert read_record(out).status == "failed"


def test_ctrl_c_leaves_a_resumable_run(experiment: Callable[..., Path], tmp_path: Path) -> None:
    """A real SIGINT to a real process, then the same command with --resume."""
    out = tmp_path / "run"
    file = experiment("long", training={"batch_size": 8, "steps": 60, "learning_rate": 1e-3})
    command = [sys.executable, "-m", "narrowtune", "run", str(file), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    for line in process.stderr:
        if "step 6/60" in line:
            process.send_signal(signal.SIGINT)
            break
    assert "--resume" in process.stderr.read()
    assert process.wait(timeout=60) == 130
    record = read_record(out)
    assert record.status == "interrupted"
    assert (out / "arms/gate-up/counting/checkpoint.safetensors").exists()
    started = time.monotonic()
    done = subprocess.run([*command, "--resume"], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    finished = read_record(out)
    assert finished.status == "complete"
    assert len(finished.losses) == 60
    assert time.monotonic() - started < 300
