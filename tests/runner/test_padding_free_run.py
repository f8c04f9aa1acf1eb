"""Padding-free batches in a run: the same losses, resumed to the same bits, with every method."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pico_tasks import scored
from safetensors import safe_open

from narrowtune import pico
from narrowtune.experiment import parse_experiment
from narrowtune.runner import Observer, Options, Plan, plan, run
from narrowtune.runner.folder import delta_path
from narrowtune.training import Interrupted, StepResult

LONG = "Look closely before you answer. " * 6 + "How many circles are there?"
ARM = {"name": "gate-up", "recipe": "gate-up"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images, every third with a long question, and six long or short texts."""
    folder = tmp_path_factory.mktemp("lengths")
    pico.write(folder / "data", "counting", "train", 12)
    pico.write(folder / "data", "charts", "train", 6)
    pico.write(folder / "data", "charts", "test", 4)
    path = folder / "data" / "counting" / "train.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows[::3]:
        row["messages"][0]["content"][1]["text"] = LONG
    for number in range(6):
        asked = LONG if number % 2 else "How many?"
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": "3"}]
        rows.append({"id": f"text-{number}", "messages": turns})
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


def planned(home: Path, method: object = None, dtype: str = "float32", **training: object) -> Plan:
    experiment = {
        "model": {"id": "pico-qwen", "dtype": dtype},
        "stages": [
            {"name": "first", "train": "data/charts/train.jsonl", "training": {"steps": 1}},
            {"name": "counting", "train": "data/counting/train.jsonl"},
        ],
        "held_out": [scored("charts")],
        "arms": [ARM | ({"method": method} if method else {})],
        "training": {"batch_size": 6, "learning_rate": 1e-3} | training,
    }
    return plan(parse_experiment(experiment), home)


def options(**more: object) -> Options:
    return Options(**{"device": "cpu", "save_models": False, "feature_cache": "off"} | more)


class Watching(Observer):
    """Hears notes, and breaks off after a step of the second stage."""

    def __init__(self, at: int | None = None) -> None:
        self.at, self.stage, self.notes = at, "", list[str]()

    def phase(self, title: str, total: int) -> None:
        self.stage = title

    def step(self, result: StepResult, samples_per_second: float) -> None:
        if result.step == self.at and "counting" in self.stage:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize(("micro", "kept"), [(6, "off"), (3, None)], ids=["whole", "features kept"])
def test_the_loss_is_that_of_padded_batches(
    home: Path, tmp_path: Path, micro: int, kept: str | None
) -> None:
    heard = Watching()
    free, padded = (
        run(
            planned(home, padding_free=on, micro_batch_size=micro),
            tmp_path / str(on),
            options=options(feature_cache=kept),
            observer=heard,
        )
        for on in (True, False)
    )
    pairs = list(zip(free.losses, padded.losses, strict=True))
    assert all(one.loss == pytest.approx(other.loss, rel=1e-4) for one, other in pairs)
    assert all(row.held for row in free.ledger)
    # The first stage has no padding, and no bit of it changes; the second has.
    first = [(one, other) for one, other in pairs if one.stage == "first"]
    assert first and all(one == other for one, other in first)
    assert any(one != other for one, other in pairs)
    assert not [note for note in heard.notes if "padding" in note]


def test_an_experiment_without_the_key_is_the_one_it_was(home: Path) -> None:
    assert planned(home).digest == planned(home, padding_free=True).digest
    assert planned(home).digest != planned(home, padding_free=False).digest


def delta(folder: Path) -> bytes:
    with safe_open(str(delta_path(folder, "gate-up", "counting")), "pt") as file:
        return b"".join(
            file.get_tensor(key).float().numpy().tobytes() for key in sorted(file.keys())
        )


@pytest.mark.parametrize(
    ("method", "dtype"),
    [
        (None, "float32"),
        (None, "bfloat16"),
        ("lora", "float32"),
        ({"lwf": {"cache": True}}, "float32"),
        ({"replay": {"ratio": 0.34}}, "float32"),
        ({"moe": {}}, "float32"),
    ],
    ids=["plain", "bfloat16", "lora", "lwf", "replay", "moe"],
)
def test_it_resumes_to_the_same_bits(
    home: Path, tmp_path: Path, method: object, dtype: str
) -> None:
    resolved = planned(home, method, dtype)
    whole = run(resolved, tmp_path / "whole", options=options())
    with pytest.raises(Interrupted):
        run(
            resolved,
            tmp_path / "cut",
            options=options(checkpoint_seconds=0.0),
            observer=Watching(at=2),
        )
    rest = run(resolved, tmp_path / "cut", resume=True, options=options())
    assert [row.loss for row in rest.losses] == [row.loss for row in whole.losses]
    assert delta(tmp_path / "cut") == delta(tmp_path / "whole")
