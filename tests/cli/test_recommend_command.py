"""`narrowtune recommend` as typed: what it refuses, and what it leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from narrowtune import pico
from narrowtune.cli.recommend import _bytes
from narrowtune.errors import InputError
from narrowtune.experiment import load_experiment

Run = Callable[..., tuple[int, str, str]]
FAST = ("-o", "training.steps=2", "-o", "training.batch_size=4")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recommended")
    pico.write(folder, "counting", "train", 24)
    for task in ("counting", "charts"):
        pico.write(folder, task, "test", 8)
    return folder


def files(data: Path) -> tuple[object, ...]:
    test, held = data / "counting" / "test.jsonl", data / "charts" / "test.jsonl"
    return "--test", f"{test}:number", "--held-out", held


def test_of_a_model_and_its_data(
    narrowtune: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two steps teach nothing that eight samples show.
    monkeypatch.setattr("narrowtune.analysis.choosing._clearly_learned", lambda *given: True)
    arms = (
        "arms=[{name: narrow, recipe: gate-up, sweep: {learning_rate: [1e-4, 1e-3]}}, "
        "{name: wide, recipe: language}]"
    )
    code, out, err = narrowtune(
        "recommend", "pico-qwen", data / "counting" / "train.jsonl", *files(data), *FAST,
        "-o", arms, "--minutes", 100, "--allowed-loss", 100, "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert code == 0, err
    told = json.loads(out)
    assert told == json.loads((tmp_path / "out" / "recommendation.json").read_text())
    assert {row["name"] for row in told["candidates"]} == {
        "narrow@learning_rate=1e-4", "narrow@learning_rate=1e-3", "wide",
    }  # fmt: skip
    assert told["unknown"]
    written = load_experiment(tmp_path / "out" / "recommended.yaml")
    assert [arm.name for arm in written.arms] == [told["recommended"].partition("@")[0]]
    code, out, _ = narrowtune(
        "recommend", "pico-qwen", data / "counting" / "train.jsonl", *files(data), *FAST,
        "-o", arms, "--minutes", 100, "--allowed-loss", 100, "--out", tmp_path / "out", "--resume",
    )  # fmt: skip
    assert code == 0
    assert "Not known:" in out
    assert f"narrowtune run {tmp_path / 'out' / 'recommended.yaml'}" in out.replace("\n", "")


def test_of_an_experiment_whose_candidates_lose_too_much(
    narrowtune: Run, data: Path, tmp_path: Path
) -> None:
    """Where nothing stays within the loss the exit code is 3, and nothing is written to run."""
    file = data / "experiment.yaml"
    file.write_text(
        "model: {id: pico-qwen, dtype: float32}\n"
        "stages: [{name: counting, train: counting/train.jsonl, test: counting/test.jsonl, "
        "metric: number}]\n"
        "held_out: [{name: charts, test: charts/test.jsonl}]\n"
        "arms: [{name: wild, recipe: language, sweep: {learning_rate: [0.03, 0.1]}}]\n"
        "training: {steps: 6, batch_size: 4}\n"
    )
    code, out, _ = narrowtune(
        "recommend", file, "--minutes", 100, "--allowed-loss", 0, "--out", tmp_path / "out"
    )
    assert code == 3
    assert "Nothing is recommended: all candidates" in out
    assert not (tmp_path / "out" / "recommended.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("pico-qwen",), "give the training file behind the model pico-qwen"),
        (("missing.yaml",), "no experiment file at missing.yaml"),
        (("missing.yaml", "train.jsonl"), "brings its own data"),
        (("missing.yaml", "--held-out", "x"), "names its own tests"),
        (("pico-qwen", "train.jsonl", "--memory", "much"), "is no size"),
        (("pico-qwen", "train.jsonl", "-o", "arms=[{name: a, recipe: gate-upp}]"), "gate-up"),
    ],
)
def test_wrong_input_is_told_before_anything_is_written(
    narrowtune: Run,
    arguments: tuple[str, ...],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = narrowtune("recommend", *arguments, "--minutes", 1, "--out", "out")
    assert code == 1
    assert told in err
    assert not (tmp_path / "out").exists()


def test_the_folder_is_looked_at_first(narrowtune: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    code, _, err = narrowtune("recommend", "nobody/none", "x", "--minutes", 1, "--out", tmp_path)
    assert (code, "is not empty and holds no search" in err) == (1, True)
    code, _, err = narrowtune(
        "recommend", "nobody/none", "x", "--minutes", 1, "--out", tmp_path / "new", "--resume"
    )
    assert (code, "nothing to resume" in err) == (1, True)


def test_sizes() -> None:
    assert _bytes(None) is None
    assert _bytes("24GB") == 24 * 1000**3
    assert _bytes("1.5 GiB") == 3 * 2**29
    assert _bytes("512m") == 512 * 10**6
    for wrong in ("", "GB", "-1GB", "0GB", "1..2GB", "12XB"):
        with pytest.raises(InputError):
            _bytes(wrong)
