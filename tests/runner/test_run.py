"""A whole run on a bundled model: recorded, resumable, honest about what failed."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import narrowtune as nt
from narrowtune.models.skeleton import BUNDLED
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


@pytest.fixture(scope="module")
def straight(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Path]:
    """The experiment run once without interruption: its record and folder."""
    out = tmp_path_factory.mktemp("straight") / "run"
    plan = nt.plan(nt.parse_experiment(raw_experiment()), drawn)
    return nt.run(plan, out, options=OPTIONS), out


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
    kept = [*folder.rglob("predictions/**/*.jsonl"), *folder.rglob("delta.safetensors")]
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


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 60.0], ids=["checkpointed", "restarted"])
@pytest.mark.parametrize(
    "stops",
    [[{"score": 2}], [{"step": 2}], [{"step": 5}, {"step": 1}], [{"score": 8}, {"score": 1}]],
    ids=["base scoring", "first stage", "second stage, twice", "scoring, twice"],
)
def test_an_interrupted_run_ends_in_the_same_bits(
    make_plan: Callable[..., Plan],
    straight: tuple[Record, Path],
    tmp_path: Path,
    stops: list[dict[str, int]],
    checkpoint_seconds: float,
) -> None:
    plan, options = make_plan(), replace(OPTIONS, checkpoint_seconds=checkpoint_seconds)
    out, resume = tmp_path / "stopped", False
    for stop in stops:
        with pytest.raises(Interrupted):
            nt.run(plan, out, resume=resume, options=options, observer=StopAt(**stop))
        assert nt.read_record(out).status == "interrupted"
        resume = True
    resumed = nt.run(plan, out, resume=True, options=options)
    assert comparable(resumed) == comparable(straight[0])
    assert outputs(out) == outputs(straight[1])


def test_the_saved_model_is_what_was_taught(
    make_plan: Callable[..., Plan], straight: tuple[Record, Path], drawn: Path, tmp_path: Path
) -> None:
    """Loaded by its folder, it scores as the arm did after its last stage, sample by sample."""
    out = tmp_path / "first"
    saving = replace(OPTIONS, save_models=True)
    first = nt.run(make_plan(arms=raw_experiment()["arms"][:1]), out, options=saving)
    saved = out / "models" / "gate-up"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in saved.iterdir()
    }
    raw = raw_experiment() | {"model": {"id": str(saved), "dtype": "float32"}}
    again = nt.run(nt.plan(nt.parse_experiment(raw), drawn), tmp_path / "again", options=OPTIONS)
    taught = [score for score in first.scores if score.stage == "reading"]
    reloaded = [score for score in again.scores if score.stage == "base"]
    assert [score.value for score in taught] == [score.value for score in reloaded]
    for task in ("counting", "reading", "existence"):
        name = f"{task}.jsonl"
        before = (out / "predictions/gate-up/reading" / name).read_text()
        assert before == (tmp_path / "again/predictions/base/base" / name).read_text()


def test_a_half_written_model_is_written_again(
    make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    plan, out = make_plan(arms=raw_experiment()["arms"][:1]), tmp_path / "run"
    nt.run(plan, out, options=OPTIONS)
    half = out / "models" / "gate-up.part"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    record = nt.run(plan, out, resume=True, options=replace(OPTIONS, save_models=True))
    assert record.status == "complete"
    assert load_file(out / "models" / "gate-up" / "model.safetensors")
    assert not half.exists()


def test_resuming_with_other_weights_is_refused(drawn: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(BUNDLED["pico-qwen"], folder)
    raw = raw_experiment() | {"model": {"id": str(folder), "dtype": "float32"}}
    plan = nt.plan(nt.parse_experiment(raw), drawn)
    with pytest.raises(Interrupted):
        nt.run(plan, tmp_path / "run", options=OPTIONS, observer=StopAt(score=1))
    weights = load_file(folder / "model.safetensors")
    save_file({name: t * 0.9 for name, t in weights.items()}, folder / "model.safetensors")
    with pytest.raises(nt.InputError, match="begun with another model_sha256"):
        nt.run(plan, tmp_path / "run", resume=True, options=OPTIONS)
    save_file(weights, folder / "model.safetensors")
    assert nt.run(plan, tmp_path / "run", resume=True, options=OPTIONS).status == "complete"


def test_an_image_belongs_to_the_digest(drawn: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(drawn, folder)
    experiment = nt.parse_experiment(raw_experiment())
    before = nt.plan(experiment, folder).digest
    assert before == nt.plan(experiment, drawn).digest
    images = sorted((folder / "counting" / "images").iterdir())
    shutil.copyfile(images[0], images[1])
    assert nt.plan(experiment, folder).digest != before


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
    plan, out = make_plan(training=training), tmp_path / "run"
    with pytest.raises(nt.RunFailed, match="loss nan"):
        nt.run(plan, out, options=OPTIONS)
    record = nt.read_record(out)
    assert record.status == "failed"
    assert record.error is not None and "gate-up · teaching counting" in record.error
    assert len(record.scores) == 3  # the base's, which were good
    assert record.losses and all(math.isfinite(row.loss) for row in record.losses)
    with pytest.raises(nt.RunFailed, match=r"lower training\.learning_rate"):
        nt.run(plan, out, resume=True, options=OPTIONS)
    assert nt.read_record(out).losses == record.losses


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


def test_a_finished_arms_delta_may_be_moved_away(
    make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    plan, out = make_plan(), tmp_path / "run"
    with pytest.raises(Interrupted):
        nt.run(plan, out, options=OPTIONS, observer=StopAt(step=8))  # in the second arm
    for path in out.glob("arms/gate-up/*/delta.safetensors"):
        path.unlink()
    assert nt.run(plan, out, resume=True, options=OPTIONS).status == "complete"


def test_record_and_deltas_call_the_base_by_one_hash(straight: tuple[Record, Path]) -> None:
    record, out = straight
    deltas = [nt.read_delta(path) for path in out.rglob("delta.safetensors")]
    hashes = {delta.header.base.sha256 for delta in deltas}
    assert hashes == {record.environment["weights_sha256"]}
