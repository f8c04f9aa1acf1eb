"""Probes in a real run: base, every stage, recorded once, resumed, refused where they can't be."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from pico_tasks import scored, small

from narrowtune import pico
from narrowtune.errors import InputError
from narrowtune.experiment import Experiment, parse_experiment
from narrowtune.record import BASE, Record, read_record
from narrowtune.runner import Observer, Options, plan, run
from narrowtune.training import Interrupted

QUIET = Options(device="cpu", save_models=False)
HELD_OUT = ("charts", "existence")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drift")
    pico.write(folder / "data", "counting", "train", 160)
    for task in ("counting", *HELD_OUT, "captions"):
        pico.write(folder / "data", task, "test", 8)
    return folder


def experiment(probes: object, **more: object) -> Experiment:
    given: dict[str, object] = {
        "stages": [scored("counting") | {"train": "data/counting/train.jsonl"}],
        "arms": [{"name": "language", "recipe": "language"}],
        "training": {"batch_size": 16, "learning_rate": 1e-3},
        "probes": probes,
    }
    return parse_experiment(small(HELD_OUT, **given | more))


ALL = ["kl", "answer_bias", "layers", {"probe": "number_bias", "limit": 4, "max_new_tokens": 8}]


@pytest.fixture(scope="module")
def record(home: Path) -> Record:
    return run(plan(experiment(ALL), home), home / "out", options=QUIET)


def reading(record: Record, arm: str, probe: str, **keys: str) -> list[dict]:
    stage = BASE if arm == BASE else "counting"
    wanted = {"arm": arm, "stage": stage, "probe": probe} | keys
    return [row for row in record.readings if wanted.items() <= row.items()]


def test_the_base_has_not_moved_and_the_tuned_model_has(record: Record) -> None:
    for task in HELD_OUT:
        for at in ("first", "all"):
            (still,) = reading(record, BASE, "kl", task=task, at=at)
            (moved,) = reading(record, "language", "kl", task=task, at=at)
            assert still["value"] == 0.0
            assert moved["value"] > 0.01
            assert moved["n"] == 8
            assert moved["stderr"] > 0
            assert moved["unit"] == "nats"
    assert not reading(record, BASE, "moved")


def test_counting_moves_mass_to_numbers_and_to_what_was_taught(record: Record) -> None:
    for part in ("number", "answer:counting"):
        for task in HELD_OUT:
            keys = {"task": task, "at": "first", "part": part}
            (before,) = reading(record, BASE, "mass", **keys)
            (after,) = reading(record, "language", "mass", **keys)
            assert after["value"] > before["value"] + 0.05
    gained = [row for row in reading(record, "language", "moved") if row["value"] > 0]
    assert any(row["part"].strip("Ġ").isdigit() for row in gained)


def test_layers_tell_where_counting_is_written(record: Record) -> None:
    for task in HELD_OUT:
        for layer in range(4):
            (still,) = reading(record, BASE, "branch_shift", task=task, part=f"mlp.{layer}")
            (moved,) = reading(record, "language", "branch_shift", task=task, part=f"mlp.{layer}")
            assert still["value"] == 0.0
            assert moved["value"] > 0.1
            assert (moved["n"], moved["at"], moved["unit"]) == (8, "all", "logits")
        pushes = reading(record, "language", "class_push", task=task, at="first")
        for skill in ("number", "answer:counting"):
            total = sum(row["value"] for row in pushes if row["part"].endswith(f":{skill}"))
            assert total > 0.1


def test_layers_may_be_all_that_is_read(home: Path) -> None:
    resolved = plan(experiment([{"probe": "layers", "limit": 2}]), home)
    assert resolved.probing is not None
    assert resolved.to_dict()["probes"]["texts"] == {"charts": 2, "existence": 2}
    assert not resolved.probing.references  # no vocabulary-sized rows are made or kept


def test_number_bias_is_read_on_captions_of_the_held_out_images(record: Record) -> None:
    (before,) = reading(record, BASE, "number_bias")
    (after,) = reading(record, "language", "number_bias")
    assert before["n"] == after["n"] == 4
    assert after["value"] > before["value"]
    assert 0 <= after["value"] <= reading(record, "language", "number_bias_summed")[0]["value"] <= 1
    assert record.plan["probes"]["captions"] == 4
    assert record.plan["probes"]["texts"] == {"charts": 8, "existence": 8}


def test_every_value_is_a_number_or_has_a_reason(record: Record) -> None:
    assert record.readings
    for row in record.readings:
        assert row["reason"] if row["value"] is None else math.isfinite(row["value"])


def test_probes_change_no_score(home: Path, record: Record) -> None:
    without = run(plan(experiment([]), home), home / "without", options=QUIET)
    assert without.scores == record.scores
    assert [row.loss for row in without.losses] == [row.loss for row in record.losses]


class StopWhenProbing(Observer):
    """Ctrl-C while the probes of the tuned model are about to be read."""

    def phase(self, text: str, total: int) -> None:
        if text == "language · probing after counting":
            raise KeyboardInterrupt


def test_a_run_stopped_before_its_probes_reads_them_when_resumed(
    home: Path, record: Record
) -> None:
    folder, resolved = home / "stopped", plan(experiment(ALL), home)
    with pytest.raises(Interrupted):
        run(resolved, folder, options=QUIET, observer=StopWhenProbing())
    assert not [row for row in read_record(folder).readings if row["arm"] == "language"]
    resumed = run(plan(experiment(ALL), home), folder, resume=True, options=QUIET)
    assert resumed.status == "complete"
    assert resumed.readings == record.readings


def test_probes_added_to_a_finished_run_are_read_on_what_it_left(
    home: Path, record: Record
) -> None:
    folder = home / "later"
    before = run(plan(experiment([]), home), folder, options=QUIET)
    later = run(plan(experiment(ALL), home), folder, resume=True, options=QUIET)
    assert later.readings == record.readings
    assert (later.scores, later.losses) == (before.scores, before.losses)
    assert later.digest == record.digest
    with pytest.raises(InputError, match="another experiment"):
        run(plan(experiment(["kl"]), home), folder, resume=True, options=QUIET)


def test_probes_may_be_added_to_replicates_too(home: Path) -> None:
    folder, twice = home / "twice", {"seeds": [0, 1], "training": {"steps": 2, "batch_size": 8}}
    before = run(plan(experiment([], **twice), home), folder, options=QUIET)
    later = run(plan(experiment(["kl"], **twice), home), folder, resume=True, options=QUIET)
    assert later.scores == before.scores
    found = {(row["replicate"], row["arm"]) for row in later.readings}
    assert found == {(f"order-1/seed-{s}", arm) for s in (0, 1) for arm in (BASE, "language")}


def test_captions_may_come_from_a_file(home: Path) -> None:
    spec = {"probe": "number_bias", "data": "data/captions/test.jsonl", "max_new_tokens": 4}
    resolved = plan(experiment([spec], held_out=[]), home)
    assert resolved.to_dict()["probes"] == {"texts": {}, "classes": {}, "captions": 8}
    assert "data/captions/test.jsonl" in [file.path for file in resolved.files]


@pytest.mark.parametrize(
    ("probes", "more", "message"),
    [
        (["kl"], {"held_out": []}, "kl: probes read held-out tasks of your own files"),
        (["number_bais"], {}, "number_bias"),
        (["kl", "kl"], {}, "probe kl is asked for twice"),
        ([{"probe": "kl", "every": 0}], {}, "1 or more, or log, not 0"),
        ([{"probe": "kl", "every": "often"}], {}, "1 or more, or log, not 'often'"),
        ([{"probe": "kl", "data": "x.jsonl"}], {}, "only number_bias takes data"),
        ([{"probe": "number_bias", "data": "data/none.jsonl"}], {}, "data/none.jsonl"),
        (
            [{"probe": "number_bias", "max_new_tokens": 10**6}],
            {},
            "leaves no room for 1000000 new ones",
        ),
    ],
)
def test_what_cannot_be_read_is_told_before_anything_runs(
    home: Path, probes: object, more: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        plan(experiment(probes, **more), home)


def test_bfloat16_needs_a_master_copy_besides(home: Path) -> None:
    def needed(dtype: str) -> float:
        model = {"id": "pico-qwen", "dtype": dtype}
        (arm,) = plan(experiment([], model=model), home).to_dict()["arms"]
        return arm["optimiser_bytes"] / arm["trained_numel"]

    assert (needed("float32"), needed("bfloat16")) == (12, 16)
