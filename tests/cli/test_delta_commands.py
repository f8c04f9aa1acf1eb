"""`delta` as a user types it, on what a run left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import narrowtune as nt
from narrowtune.models.skeleton import BUNDLED
from narrowtune.runner import Options

Run = Callable[..., tuple[int, str, str]]
TERMS = ["language.mlp.gate", "vision.attn.q"]


@pytest.fixture(scope="module")
def run_folder(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two stages that trains whole tensors and slices, with its models."""
    out = tmp_path_factory.mktemp("deltas") / "run"
    stages = [
        {"name": task, "train": f"{task}/train.jsonl", "test": f"{task}/test.jsonl"}
        for task in ("counting", "reading")
    ]
    raw = {
        "model": {"id": "pico-qwen", "dtype": "float32"},
        "stages": stages,
        "arms": [{"name": "mine", "train": TERMS}],
        "training": {"batch_size": 16, "learning_rate": 1e-3},
    }
    nt.run(nt.plan(nt.parse_experiment(raw), drawn), out, options=Options(device="cpu"))
    return out


@pytest.fixture
def deltas(run_folder: Path) -> list[Path]:
    return [run_folder / f"arms/mine/{s}/delta.safetensors" for s in ("counting", "reading")]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


def test_show_tells_what_a_delta_is(narrowtune: Run, deltas: list[Path]) -> None:
    code, out, _ = narrowtune("delta", "show", deltas[1])
    assert code == 0
    for word in ("pico-qwen", "arm mine, stage reading", "continues", *TERMS, "narrowtune 0."):
        assert word in out
    code, out, _ = narrowtune("delta", "show", deltas[0], "--json")
    told = json.loads(out)
    assert told["base"]["id"] == "pico-qwen" and told["stage"] == "counting"
    assert told["numel"] == sum(part["numel"] for part in told["parts"].values())
    assert told["bytes"] <= 1.01 * 4 * told["numel"] + 64 * 1024


def test_a_run_binds_scores_to_deltas(run_folder: Path, deltas: list[Path]) -> None:
    record = nt.read_record(run_folder)
    headers = [nt.read_delta(path).header for path in deltas]
    assert all(header.scores_sha256 for header in headers)
    assert headers[0].scores_sha256 != headers[1].scores_sha256
    assert headers[1].parent_sha256 == headers[0].result_sha256
    assert {row.held for row in record.ledger} == {True}


def test_apply_gives_the_runs_model_bit_by_bit(
    narrowtune: Run, run_folder: Path, deltas: list[Path], tmp_path: Path
) -> None:
    assert narrowtune("delta", "apply", "pico-qwen", *deltas, "--out", tmp_path / "chain")[0] == 0
    assert narrowtune("delta", "apply", "pico-qwen", deltas[1], "--out", tmp_path / "last")[0] == 0
    for made in ("chain", "last"):
        assert same(tmp_path / made, run_folder / "models/mine")
        names = {path.name for path in (tmp_path / made).iterdir()}
        assert {"tokenizer.json", "preprocessor_config.json", "chat_template.jinja"} <= names
    zero = ("--alpha", 0, "--out", tmp_path / "zero")
    assert narrowtune("delta", "apply", "pico-qwen", deltas[1], *zero)[0] == 0
    assert same(tmp_path / "zero", BUNDLED["pico-qwen"])


def test_scale_then_apply_is_apply_at_alpha(
    narrowtune: Run, deltas: list[Path], tmp_path: Path
) -> None:
    scaled = tmp_path / "half.safetensors"
    code, out, _ = narrowtune("delta", "scale", deltas[0], "--alpha", 0.5, "--out", scaled)
    assert code == 0 and "alpha 0.5" in out
    assert narrowtune("delta", "apply", "pico-qwen", scaled, "--out", tmp_path / "a")[0] == 0
    alpha = ("--alpha", 0.5, "--out", tmp_path / "b")
    assert narrowtune("delta", "apply", "pico-qwen", deltas[0], *alpha)[0] == 0
    assert same(tmp_path / "a", tmp_path / "b")


def test_verify_passes_or_exits_with_3(
    narrowtune: Run, run_folder: Path, deltas: list[Path]
) -> None:
    code, out, _ = narrowtune("delta", "verify", "pico-qwen", deltas[0])
    assert code == 0 and out.count("ok ") == 3
    tuned = ("--tuned", run_folder / "models/mine")
    code, out, _ = narrowtune("delta", "verify", "pico-qwen", *deltas, *tuned, "--json")
    assert code == 0 and [row["passed"] for row in json.loads(out)] == [True] * 4
    code, out, _ = narrowtune("delta", "verify", "pico-qwen", deltas[0], *tuned)
    assert code == 3 and "FAILED the tuned model is base and delta" in out
    code, out, _ = narrowtune("delta", "verify", "pico-llava", deltas[0])
    assert code == 3 and "FAILED base" in out


def test_eval_takes_a_delta(
    narrowtune: Run, run_folder: Path, deltas: list[Path], drawn: Path
) -> None:
    task = ("--task", f"{drawn}/existence/test.jsonl:yes_no", "--json", "--device", "cpu")
    _, direct, _ = narrowtune("eval", run_folder / "models/mine", *task)
    code, through, _ = narrowtune("eval", "pico-qwen", "--delta", deltas[1], *task)
    assert code == 0
    assert json.loads(through)["scores"] == json.loads(direct)["scores"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["apply", "pico-llava", "DELTA", "--out", "new"], "has no parameter"),
        (["apply", "pico-qwen", "DELTA", "--out", "."], "exists; name a new one"),
        (["apply", "pico-qwen", "nowhere", "--out", "new"], "can't be read"),
        (["apply", "pico-qwen", "DELTA", "--alpha", "nan", "--out", "new"], "finite number"),
        (["apply", "pico-qwn", "DELTA", "--out", "new"], "did you mean 'pico-qwen'"),
        (["scale", "DELTA", "--alpha", "2", "--out", "."], "exists; name a new one"),
        (["show", "config.json"], "can't be read"),
        (["show", str(BUNDLED["pico-qwen"] / "model.safetensors")], "is no delta"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_input_is_one_message_and_loses_nothing(
    narrowtune: Run,
    deltas: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = narrowtune("delta", *(deltas[0] if w == "DELTA" else w for w in words))
    assert code == 1 and told in err and "Traceback" not in err
    assert not list(tmp_path.iterdir())
