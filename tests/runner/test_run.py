"""A whole run on a bundled model: recorded, resumable, honest about what failed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import narrowtune as nt
from narrowtune.record import LedgerRow, Record, Score
from narrowtune.runner import Observer, Options, Plan
from narrowtune.training import Interrupted, StepResult

OPTIONS = Options(device="cpu", save_models=False)


def raw_experiment() -> dict[str, Any]:
    return {
        "model": {"id": "pico-qwen", "dtype": "float32"},
        "stages": [
            {
                "name": task,
                "train": f"{task}/train.jsonl",
                "test": f"{task}/test.jsonl",
                "metric": metric,
                "max_new_tokens": 6,
            }
            for task, metric in (("counting", "number"), ("reading", "exact"))
        ],
        "held_out": [{"name": "existence", "test": "existence/test.jsonl", "metric": "yes_no"}],
        "arms": [{"name": "gate-up", "recipe": "gate-up"}, {"name": "qkv", "train": ["attention"]}],
        "training": {"batch_size": 16, "learning_rate": 1e-3},
    }


@pytest.fixture
def make_plan(drawn: Path) -> Callable[..., Plan]:
    """Makes the plan of a small experiment; keyword arguments replace its top-level keys."""

    def make(**changes: Any) -> Plan:
        return nt.plan(nt.parse_experiment(raw_experiment() | changes), drawn)

    return make


class StopAt(Observer):
    """Interrupts a run, as Ctrl-C would, when a condition on the observed facts holds."""

    def __init__(self, step: int = -1, score: int = -1) -> None:
        self.at_step, self.at_score = step, score
        self.steps = self.scores = 0

    def step(self, result: StepResult, samples_per_second: float) -> None:
        self.steps += 1
        if self.steps == self.at_step:
            raise KeyboardInterrupt

    def score(self, score: Score) -> None:
        self.scores += 1
        if self.scores == self.at_score:
            raise KeyboardInterrupt


def comparable(record: Record) -> dict[str, Any]:
    """The record without what legitimately differs between two runs: times and memory."""
    values = record.model_dump(mode="json", exclude={"cost", "environment"})
    values["cost"] = [
        row.model_dump(include={"arm", "stage", "steps", "samples", "tokens", "trained_numel"})
        for row in record.cost
    ]
    return values


def outputs(folder: Path) -> dict[str, bytes]:
    """Every prediction file and trained tensor a run left, by relative path."""
    kept = [*folder.rglob("predictions/**/*.jsonl"), *folder.rglob("trained.safetensors")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


def test_a_run_records_everything(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    plan, out = make_plan(), tmp_path / "run"
    record = nt.run(plan, out, options=OPTIONS)
    assert record.status == "complete"
    assert record == nt.read_record(out)
    taught = [(arm, stage) for arm in ("gate-up", "qkv") for stage in ("counting", "reading")]
    places = [("base", "base"), *taught]
    tasks = ("counting", "reading", "existence")
    assert [(s.arm, s.stage, s.task) for s in record.scores] == [
        (*place, task) for place in places for task in tasks
    ]
    assert all(score.n == 12 and 0 <= score.value <= 1 for score in record.scores)
    assert all(row.held and row.frozen > 50 for row in record.ledger)
    assert [row.steps for row in record.cost] == [3, 3, 3, 3]
    assert len(record.losses) == 12
    assert {row.path for row in record.data} >= {"counting/train.jsonl", "existence/test.jsonl"}
    # Same data, same order, for every arm.
    order = {(row.arm, row.stage): row.sha256 for row in record.data_order}
    assert order["gate-up", "counting"] == order["qkv", "counting"]
    rows = (out / "predictions/gate-up/counting/existence.jsonl").read_text().splitlines()
    assert len(rows) == 12
    assert {"id", "prediction", "references", "score"} <= json.loads(rows[0]).keys()
    assert not list(out.rglob("checkpoint.safetensors"))


@pytest.mark.parametrize(
    "stops",
    [[{"score": 2}], [{"step": 2}], [{"step": 4}, {"step": 3}], [{"score": 8}, {"score": 1}]],
    ids=["base scoring", "first stage", "second stage, twice", "scoring, twice"],
)
def test_an_interrupted_run_ends_in_the_same_bits(
    make_plan: Callable[..., Plan], tmp_path: Path, stops: list[dict[str, int]]
) -> None:
    plan = make_plan()
    straight = nt.run(plan, tmp_path / "straight", options=OPTIONS)
    out, resume = tmp_path / "stopped", False
    for stop in stops:
        with pytest.raises(Interrupted):
            nt.run(plan, out, resume=resume, options=OPTIONS, observer=StopAt(**stop))
        assert nt.read_record(out).status == "interrupted"
        resume = True
    resumed = nt.run(plan, out, resume=True, options=OPTIONS)
    assert comparable(resumed) == comparable(straight)
    assert outputs(out) == outputs(tmp_path / "straight")


def test_stages_in_one_run_equal_stages_run_one_by_one(
    make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    """The second stage begins from the weights of the first, whoever carried them there."""
    both = nt.run(make_plan(), tmp_path / "both", options=OPTIONS)
    stages = raw_experiment()["stages"]
    first = make_plan(stages=stages[:1])
    nt.run(first, tmp_path / "first", options=Options(device="cpu", save_models=True))
    saved = tmp_path / "first" / "arms" / "gate-up" / "model"
    kept = load_file(tmp_path / "both/arms/gate-up/counting/trained.safetensors")
    whole = load_file(saved / "model.safetensors")
    assert kept
    assert all(torch.equal(whole[_on_disk(name, whole)], kept[name]) for name in kept)
    place = ("gate-up", "counting", "counting")
    score = next(s for s in both.scores if (s.arm, s.stage, s.task) == place)
    again = nt.plan(
        nt.parse_experiment(raw_experiment() | {"model": {"id": str(saved), "dtype": "float32"}}),
        make_plan_root(first),
    )
    base = nt.run(again, tmp_path / "again", options=OPTIONS)
    assert base.scores[0].value == score.value


def _on_disk(name: str, tensors: dict[str, torch.Tensor]) -> str:
    """`save_pretrained` may write older prefixes than the module tree has."""
    ending = name.removeprefix("model.language_model.")
    return next(key for key in tensors if key.endswith(ending) and "visual" not in key)


def make_plan_root(plan: Plan) -> Path:
    return plan.tasks[0].prepared.examples[0].images[0].parent.parent.parent


def test_a_folder_with_a_run_is_never_overwritten(
    make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    plan, out = make_plan(), tmp_path / "run"
    nt.run(plan, out, options=OPTIONS)
    before = outputs(out)
    with pytest.raises(nt.InputError, match=r"already holds a run \(complete\).*--resume"):
        nt.run(plan, out, options=OPTIONS)
    with pytest.raises(nt.InputError, match="another experiment or other data"):
        nt.run(make_plan(seed=1), out, resume=True, options=OPTIONS)
    assert nt.run(plan, out, resume=True, options=OPTIONS).status == "complete"
    assert outputs(out) == before


def test_other_folders_are_refused(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.txt").write_text("precious")
    with pytest.raises(nt.InputError, match="not empty and holds no run"):
        nt.run(make_plan(), tmp_path / "photos", options=OPTIONS)
    with pytest.raises(nt.InputError, match="nothing to resume"):
        nt.run(make_plan(), tmp_path / "new", resume=True, options=OPTIONS)


def test_a_nan_leaves_a_valid_failed_record(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    training = {"batch_size": 16, "learning_rate": 1e30, "warmup": 0.0, "max_grad_norm": 1e30}
    out = tmp_path / "run"
    with pytest.raises(nt.RunFailed, match="loss nan"):
        nt.run(make_plan(training=training), out, options=OPTIONS)
    record = nt.read_record(out)
    assert record.status == "failed"
    assert record.error is not None and "step" in record.error
    assert len(record.scores) == 3  # the base's, which were good
    assert (out / "arms/gate-up/counting/checkpoint.safetensors").exists()


class Vandal(Observer):
    """Breaks the law of freezing: after the second step it nudges a frozen tensor."""

    def step(self, result: StepResult, samples_per_second: float) -> None:
        import gc

        if result.step == 2:
            for thing in gc.get_objects():
                if type(thing).__name__ == "Qwen2_5_VLForConditionalGeneration":
                    frozen = thing.get_parameter("model.visual.patch_embed.proj.weight")
                    frozen.data.view(-1)[0] += 1e-3

    def ledger(self, row: LedgerRow) -> None:
        assert not row.held


def test_the_ledger_sees_a_broken_freeze(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    plan = make_plan(arms=raw_experiment()["arms"][:1])
    record = nt.run(plan, tmp_path / "run", options=OPTIONS, observer=Vandal())
    assert [row.held for row in record.ledger] == [False, False]
    assert record.ledger[0].changed == ("model.visual.patch_embed.proj.weight",)
