"""`plan` on memory and time, as users meet it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def experiment(drawn: Path, tmp_path: Path) -> Path:
    """An experiment of one arm."""
    raw = {
        "model": {"id": "pico-qwen", "dtype": "float32"},
        "stages": [{"name": "counting", "train": f"{drawn}/counting/train.jsonl"}],
        "arms": [{"name": "gate-up", "recipe": "gate-up"}],
        "training": {"batch_size": 8, "steps": 2},
    }
    path = tmp_path / "experiment.yaml"
    path.write_text(json.dumps(raw))  # JSON is YAML
    return path


def test_an_unknown_device_is_refused_with_the_nearest(narrowtune: Run, experiment: Path) -> None:
    code, printed, err = narrowtune("plan", experiment, "--device", "h100")
    assert code == 1 and not printed
    assert "plan knows no device 'h100'; did you mean 'h100-80g'" in err
    assert err.count("\n") == 1


def test_the_table_and_its_numbers(narrowtune: Run, experiment: Path) -> None:
    code, printed, _ = narrowtune("plan", experiment, "--device", "h100-80g")
    assert code == 0
    assert "predicted for h100-80g" in printed and "estimates" in printed
    code, told, _ = narrowtune("plan", experiment, "--device", "h100-80g", "--json")
    cost = json.loads(told)["cost"]
    (arm,) = cost["arms"]
    assert code == 0 and cost["device"] == "h100-80g" and cost["dtype"] == "float32"
    assert arm["fits"] and not arm["ways"]
    assert sum(arm["parts"].values()) == arm["peak_bytes"]
