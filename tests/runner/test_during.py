"""Probes read while a stage is taught: when, on what, kept over interruptions, changing nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from pico_tasks import small
from safetensors.torch import load_file

from narrowtune import pico
from narrowtune.errors import InputError, RunFailed
from narrowtune.experiment import Experiment, parse_experiment
from narrowtune.models.loading import load_model
from narrowtune.probes.looking import is_due, leaving_no_trace
from narrowtune.record import Record, read_record
from narrowtune.runner import Observer, Options, plan, run
from narrowtune.runner.during import Look, StageLooks
from narrowtune.training import Interrupted, StepResult

QUIET = Options(device="cpu", save_models=False)
HELD_OUT = ("charts", "existence")
STEPS = 12
LOOKING = [
    {"probe": "kl", "every": 5, "limit": 6},
    {"probe": "answer_bias", "every": 5},
    {"probe": "number_bias", "every": "log", "limit": 3, "rows_during": 2, "max_new_tokens": 6},
]
AT_ENDS = [
    {key: value for key, value in spec.items() if key not in ("every", "rows_during")}
    for spec in LOOKING
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("during")
    for task in ("counting", "existence"):
        pico.write(folder / "data", task, "train", 48)
    for task in HELD_OUT:
        pico.write(folder / "data", task, "test", 8)
    return folder


def experiment(probes: object, **more: object) -> Experiment:
    given: dict[str, object] = {
        "arms": [{"name": "gate-up", "recipe": "gate-up"}],
        "training": {"batch_size": 8, "steps": STEPS, "learning_rate": 1e-3},
        "evaluate": [],
        "probes": probes,
    }
    return parse_experiment(small(HELD_OUT, **given | more))


@pytest.fixture(scope="module")
def record(home: Path) -> Record:
    return run(plan(experiment(LOOKING), home), home / "out", options=QUIET)


def rows(record: Record, **keys: object) -> list[dict]:
    return [row for row in record.readings if keys.items() <= row.items()]


def test_looks_come_at_their_interval_and_after_the_last_step(record: Record) -> None:
    kl = rows(record, probe="kl", task="charts", at="all", stage="counting")
    assert [row.get("step") for row in kl] == [5, 10, 12, None]
    assert [row["n"] for row in kl] == [4, 4, 4, 8]
    assert kl[2]["value"] > kl[0]["value"] > 0
    own = rows(record, probe="number_bias", stage="counting")
    assert [row.get("step") for row in own] == [1, 10, 12, None]
    assert [row["n"] for row in own] == [2, 2, 2, 3]
    assert rows(record, probe="mass", part="answer:counting", step=5, at="first")
    assert not [row for row in rows(record, probe="moved") if "step" in row]
    assert not [row for row in rows(record, stage="base") if "step" in row]
    assert record.plan["probes"]["during"][0]["texts"] == {"charts": 4, "existence": 4}


def test_the_last_look_agrees_with_the_end_on_the_same_rows(home: Path) -> None:
    same = [{"probe": "kl", "every": 5, "limit": 4}]
    found = run(plan(experiment(same), home), home / "same", options=QUIET)
    last, end = rows(found, probe="kl", task="existence", at="all", arm="gate-up")[-2:]
    assert last.pop("step") == STEPS
    numbers = ("value", "stderr")  # read in the same batches as other tasks, padded otherwise
    for key in numbers:
        assert last.pop(key) == pytest.approx(end.pop(key), rel=1e-4)
    assert last == end


def delta(home: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(home / name / "arms" / "gate-up" / "counting" / "delta.safetensors")


def test_looking_changes_no_bit_of_training(home: Path, record: Record) -> None:
    unseen = run(plan(experiment([]), home), home / "unseen", options=QUIET)
    assert unseen.losses == record.losses
    one, other = delta(home, "out"), delta(home, "unseen")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    (cost,) = record.cost
    assert cost.evaluation_seconds > 0


def test_a_look_leaves_random_states_and_modes() -> None:
    model = load_model("pico-qwen", device="cpu", dtype="float32").train()
    held = next(module for module in model.modules() if hasattr(module, "rope_deltas"))
    held.rope_deltas = before = torch.ones(1)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    expected = random.random(), np.random.rand(), torch.rand(1)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    with leaving_no_trace(model):
        random.random(), np.random.rand(), torch.rand(5)
        held.rope_deltas = torch.zeros(2)
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected
    assert held.rope_deltas is before


class StopAfter(Observer):
    """Ctrl-C after some step."""

    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, result: StepResult, samples_per_second: float) -> None:
        if result.step == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("seconds", [0.0, 1e9], ids=["from a checkpoint", "from the start"])
def test_a_resumed_stage_neither_repeats_nor_loses_rows(
    home: Path, record: Record, seconds: float
) -> None:
    """Killed at step 11; then its checkpoint is of step 10, or there is none."""
    folder, options = home / f"stopped-{seconds}", Options("cpu", seconds, save_models=False)
    with pytest.raises(Interrupted):
        run(plan(experiment(LOOKING), home), folder, options=options, observer=StopAfter(11))
    kept = folder / "arms" / "gate-up" / "counting" / "looks.jsonl"
    assert [json.loads(line)["step"] for line in kept.read_text().splitlines()] == [1, 5, 10]
    with kept.open("a") as file:
        file.write('{"step": 11, "seconds"')  # cut short by the crash
    resumed = run(plan(experiment(LOOKING), home), folder, resume=True, options=options)
    assert resumed.readings == record.readings
    assert not kept.exists()


def test_rows_after_the_checkpoint_are_dropped(tmp_path: Path, base_look: list[Look]) -> None:
    path = tmp_path / "looks.jsonl"
    path.write_text("".join(json.dumps(vars(look)) + "\n" for look in base_look))
    looks = StageLooks([], path, steps=12, writes=True)
    looks.after(7, torch.nn.Linear(1, 1), ("arm", "stage"))
    assert [row["step"] for row in looks.readings] == [1, 5]
    assert looks.seconds == 2.0


@pytest.fixture
def base_look() -> list[Look]:
    return [Look(step, 1.0, [{"step": step, "value": 0.5}]) for step in (1, 5, 10)]


def test_a_run_that_diverged_keeps_what_was_seen_and_starts_afresh(home: Path) -> None:
    wild = {"training": {"batch_size": 8, "steps": 8, "learning_rate": 1e30}}
    probes = [{"probe": "kl", "every": 1}]
    for resume in (False, True):
        with pytest.raises(RunFailed, match=r"lower training\.learning_rate"):
            run(plan(experiment(probes, **wild), home), home / "wild", resume=resume, options=QUIET)
        seen = rows(read_record(home / "wild"), probe="kl", task="charts", at="all")
        taught = [row for row in seen if "step" in row]
        assert [row["step"] for row in taught] == sorted({row["step"] for row in taught})
        assert taught
        assert all(row["reason"] for row in taught if row["value"] is None)


def test_due_steps() -> None:
    assert [step for step in range(1, 1001) if is_due(step, "log", False)] == [1, 10, 100, 1000]
    assert [step for step in range(1, 50) if is_due(step, 20, step == 49)] == [20, 40, 49]


def test_probes_of_the_same_texts_look_together(home: Path) -> None:
    apart = [{"probe": "kl", "every": 5}, {"probe": "answer_bias", "every": "log"}]
    with pytest.raises(InputError, match="kl and answer_bias read the same texts"):
        plan(experiment(apart), home)
    one = plan(experiment([{"probe": "kl", "every": 5}, "answer_bias"]), home)
    assert [(looks.every, looks.watch.probing.classes) for looks in one.looks] == [(5, ())]
    assert not plan(experiment(AT_ENDS), home).looks


def test_a_plan_tells_when_looks_would_be_dear(home: Path) -> None:
    """8 texts every 5 steps of 8: 8 / (3 x 8 x 5), a fifteenth; every 20 steps under 3 %."""
    dear = plan(experiment([{"probe": "kl", "every": 5}]), home)
    (note,) = [one for one in dear.notes(dear.arms[0]) if "every 5 steps" in one]
    assert "about 7% of its training" in note
    light = plan(experiment([{"probe": "kl", "every": 20}]), home)
    assert not [one for one in light.notes(light.arms[0]) if "every 20 steps" in one]
