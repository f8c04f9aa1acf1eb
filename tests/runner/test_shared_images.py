"""Questions on one image share a step: the same loss, and resumed to the same bits."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import pytest
from pico_tasks import scored

from narrowtune import pico
from narrowtune.errors import InputError
from narrowtune.experiment import parse_experiment
from narrowtune.record import Record
from narrowtune.runner import Observer, Options, Plan, plan, run
from narrowtune.runner.folder import delta_path
from narrowtune.training import Interrupted, StepResult

QUIET = Options(device="cpu", save_models=False, feature_cache="off")
QUESTIONS = ("How many circles are there?", "Is there a boat?", "What is in the picture?")
ARM = {"name": "gate-up", "recipe": "gate-up"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images with three questions each."""
    folder = tmp_path_factory.mktemp("shared")
    pico.write(folder / "data", "counting", "train", 8)
    pico.write(folder / "data", "charts", "test", 4)
    path = folder / "data" / "counting" / "train.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    lines = []
    for row in rows:
        for number, question in enumerate(QUESTIONS):
            asked = json.loads(json.dumps(row)) | {"id": f"{row['id']}-{number}"}
            asked["messages"][0]["content"][1]["text"] = question
            lines.append(json.dumps(asked))
    path.write_text("\n".join(lines) + "\n")
    return folder


def planned(home: Path, arm: dict[str, object] = ARM, **training: object) -> Plan:
    experiment = {
        "model": {"id": "pico-qwen", "dtype": "float32"},
        "stages": [{"name": "counting", "train": "data/counting/train.jsonl"}],
        "held_out": [scored("charts")],
        "arms": [arm],
        "training": {"batch_size": 6, "learning_rate": 1e-3} | training,
    }
    return plan(parse_experiment(experiment), home)


def images_by_step(resolved: Plan) -> list[list[str]]:
    arm, stage = resolved.arms[0], resolved.stages[0]
    order = resolved.order(arm, stage, resolved.settings(arm, stage))
    return [[str(stage.rows[index].example.images[0]) for index in batch] for batch in order]


def test_an_image_is_in_one_step(home: Path) -> None:
    steps = images_by_step(planned(home, share_images=True))
    assert [len(step) for step in steps] == [6, 6, 6, 6]
    assert all(len(set(step)) == 2 for step in steps)
    apart = images_by_step(planned(home))
    assert any(len(set(step)) > 2 for step in apart)
    assert sorted(chain.from_iterable(steps)) == sorted(chain.from_iterable(apart))


def test_the_loss_is_that_of_separate_samples(home: Path, tmp_path: Path) -> None:
    """All samples in one step: the order does not matter, so both losses must agree."""
    both = [
        run(planned(home, batch_size=24, share_images=share), tmp_path / str(share), options=QUIET)
        for share in (False, True)
    ]
    apart, together = (record.losses[0] for record in both)
    assert together.loss == pytest.approx(apart.loss, rel=1e-5)
    assert together.grad_norm == pytest.approx(apart.grad_norm, rel=1e-4)
    assert all(row.held for record in both for row in record.ledger)


class Stopper(Observer):
    """Breaks off after a step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def step(self, result: StepResult, samples_per_second: float) -> None:
        if result.step == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", [None, {"lwf": {"cache": True, "teacher": "base"}}, "lora"])
def test_it_resumes_to_the_same_bits(home: Path, tmp_path: Path, method: object) -> None:
    arm = ARM | ({"method": method} if method else {})
    resolved = planned(home, arm, share_images=True, epochs=2)
    whole = run(resolved, tmp_path / "whole", options=QUIET)
    options = Options(device="cpu", save_models=False, checkpoint_seconds=0.0, feature_cache="off")
    with pytest.raises(Interrupted):
        run(resolved, tmp_path / "cut", options=options, observer=Stopper(5))
    rest = run(resolved, tmp_path / "cut", resume=True, options=options)
    assert [row.loss for row in rest.losses] == [row.loss for row in whole.losses]
    assert delta(tmp_path / "cut") == delta(tmp_path / "whole")
    _all_taught(whole)


def delta(folder: Path) -> bytes:
    from safetensors import safe_open

    with safe_open(str(delta_path(folder, "gate-up", "counting")), "pt") as file:
        return b"".join(file.get_tensor(name).numpy().tobytes() for name in sorted(file.keys()))


def _all_taught(record: Record) -> None:
    (cost,) = record.cost
    assert (cost.steps, cost.samples) == (8, 48)


def test_a_model_that_cannot_is_refused_when_planned(home: Path, tmp_path: Path) -> None:
    config = {
        "architectures": ["BloomForCausalLM"], "model_type": "bloom", "hidden_size": 32,
        "n_head": 4, "n_layer": 1, "vocab_size": 512,
    }  # fmt: skip
    bloom = home / "bloom"
    bloom.mkdir()
    (bloom / "config.json").write_text(json.dumps(config))
    folder = Path(pico.__file__).parents[1] / "models" / "bundled" / "pico-qwen"
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (bloom / name).write_bytes((folder / name).read_bytes())
    row = {"messages": [{"role": "user", "content": "Why?"},
                        {"role": "assistant", "content": "So."}]}  # fmt: skip
    (home / "data" / "text.jsonl").write_text(json.dumps(row) + "\n")
    experiment = {
        "model": {"id": "bloom"},
        "stages": [{"name": "text", "train": "data/text.jsonl"}],
        "arms": [{"name": "mlp", "recipe": "mlp"}],
        "training": {"share_images": True},
    }
    with pytest.raises(InputError, match="BloomForCausalLM cannot be told positions"):
        plan(parse_experiment(experiment), home)
