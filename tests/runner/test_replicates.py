"""A repeated experiment on the bundled model: every order and seed, gathered, resumed, exact."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pico_tasks import scored
from PIL import Image

from narrowtune import pico
from narrowtune.analysis import pooled_to_dict
from narrowtune.errors import InputError
from narrowtune.experiment import Experiment, parse_experiment
from narrowtune.record import BASE, Record, predictions_path, read_record
from narrowtune.report import read_runs
from narrowtune.runner import Observer, Options, plan, run
from narrowtune.training import Interrupted, StepResult

QUIET = Options(device="cpu", save_models=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replicates")
    for task in ("birds", "counting"):
        pico.write(folder / "data", task, "train", 24)
    for task in ("birds", "counting", "charts", "choices"):
        pico.write(folder / "data", task, "test", 8)
    return folder


def experiment(**more: object) -> Experiment:
    return parse_experiment(
        {
            "model": {"id": "pico-qwen", "dtype": "float32"},
            "orders": "all",
            "seeds": [0, 7],
            "stages": [
                scored(task) | {"train": f"data/{task}/train.jsonl"}
                for task in ("birds", "counting")
            ],
            "held_out": [scored("charts"), scored("choices")],
            "arms": [{"name": "gate-up", "recipe": "gate-up"}],
            "training": {"batch_size": 8, "learning_rate": 1e-3},
            "noise_floor": {"batch_sizes": [1, 3]},
        }
        | more
    )


@pytest.fixture(scope="module")
def out(home: Path) -> Path:
    folder = home / "out"
    run(plan(experiment(), home), folder, options=QUIET)
    return folder


def test_every_order_with_every_seed(out: Path) -> None:
    record = read_record(out)
    assert record.status == "complete"
    assert [(one.order, one.seed) for one in record.replicates] == [
        (("birds", "counting"), 0),
        (("counting", "birds"), 0),
        (("birds", "counting"), 7),
        (("counting", "birds"), 7),
    ]
    assert len(record.scores) == 4 * (4 + 2 * 4)
    assert {score.replicate for score in record.scores} == {one.name for one in record.replicates}
    assert all(row.held for row in record.ledger) and len(record.ledger) == 8
    orders = {row.sha256 for row in record.data_order if row.stage == "birds"}
    assert len(orders) == 4  # another seed, and another place, is another order of samples


def test_the_base_is_scored_once_and_shared(out: Path) -> None:
    first, *others = (read_record(out / one.name) for one in read_record(out).replicates)
    rows = [row for row in first.scores if row.arm == BASE]
    for other in others:
        mine = {row.task: row for row in other.scores if row.arm == BASE}
        assert mine == {row.task: row for row in rows}
        assert other.readings == first.readings


def test_one_cell_alone_gives_the_same_numbers(home: Path, out: Path) -> None:
    """A replicate run on its own, its data read anew: the same digest, the same bits."""
    cell = experiment().replicates[3]
    alone = run(plan(experiment().alone(cell), home), home / "alone", options=QUIET)
    there = read_record(out / cell.name)
    assert alone.digest == there.digest
    assert alone.losses == there.losses and alone.data_order == there.data_order
    assert {(s.arm, s.stage, s.task): s for s in alone.scores} == {
        (s.arm, s.stage, s.task): s for s in there.scores
    }
    for score in there.scores:
        place = (score.arm, score.stage, score.task)
        mine = predictions_path(home / "alone", *place).read_text()
        assert mine == predictions_path(out / cell.name, *place).read_text()


def test_the_noise_floor_is_measured_on_the_base(out: Path) -> None:
    record = read_record(out / "order-1" / "seed-0")
    assert {(row["task"], row["batch_size"]) for row in record.readings} == {
        (task, size) for task in ("birds", "counting", "charts", "choices") for size in (1, 3)
    }
    assert all(row["probe"] == "noise_floor" and row["n"] == 8 for row in record.readings)
    # fp32 on CPU: no batch size may move an answer of these models.
    assert all(row["value"] == 0 and row["flipped"] == 0 for row in record.readings)


def test_the_analysis_reads_all_of_it(out: Path) -> None:
    record = read_record(out)
    found = pooled_to_dict(record, read_runs(out, record))
    json.dumps(found, allow_nan=False)
    assert found["arms"][0]["runs"] == 4 and len(found["replicates"]) == 4
    assert found["arms"][0]["held_out"]["mean"]["pairing"] == "paired"


class StopIn(Observer):
    """Breaks off at a step of a replicate."""

    def __init__(self, place: int) -> None:
        self.place, self.here = place, 0

    def replicate(self, replicate: object, place: int, total: int) -> None:
        self.here = place

    def step(self, result: StepResult, samples_per_second: float) -> None:
        if self.here == self.place:
            raise KeyboardInterrupt


def test_it_resumes_cell_by_cell_to_the_same_scores(home: Path, out: Path) -> None:
    folder = home / "resumed"
    resolved = plan(experiment(), home)
    with pytest.raises(Interrupted):
        run(resolved, folder, options=QUIET, observer=StopIn(3))
    half = read_record(folder)
    assert half.status == "interrupted"
    assert [one.status for one in half.replicates] == ["complete", "complete", "interrupted"]
    record = run(resolved, folder, resume=True, options=QUIET)
    assert record.status == "complete"
    assert _numbers(record) == _numbers(read_record(out))


def test_a_cell_of_another_experiment_is_not_mixed_in(home: Path, out: Path) -> None:
    folder = home / "mixed"
    shutil.copytree(out, folder)
    other = plan(experiment(training={"batch_size": 8, "learning_rate": 1e-4}), home)
    with pytest.raises(InputError, match="another experiment"):
        run(other, folder, resume=True, options=QUIET)
    assert read_record(folder).status == "complete"


def test_a_seed_that_was_added_is_run_and_the_others_are_kept(home: Path, out: Path) -> None:
    folder = home / "grown"
    run(plan(experiment(seeds=[0]), home), folder, options=QUIET)
    kept = (folder / "order-1/seed-0/record.json").stat().st_mtime_ns
    record = run(plan(experiment(), home), folder, resume=True, options=QUIET)
    assert record.status == "complete"
    assert (folder / "order-1/seed-0/record.json").stat().st_mtime_ns == kept
    assert _numbers(record) == _numbers(read_record(out))
    with pytest.raises(InputError, match="another experiment"):  # seed 7 would be lost
        run(plan(experiment(seeds=[0]), home), folder, resume=True, options=QUIET)


def test_the_base_answers_again_where_its_answers_are_gone(home: Path, out: Path) -> None:
    folder = home / "gone"
    shutil.copytree(out, folder)
    shutil.rmtree(folder / "order-2")
    predictions_path(folder / "order-1/seed-0", BASE, BASE, "charts").unlink()
    record = run(plan(experiment(), home), folder, resume=True, options=QUIET)
    assert record.status == "complete"
    assert _numbers(record) == _numbers(read_record(out))


def test_scores_of_another_version_are_not_added_to(home: Path, out: Path) -> None:
    folder, resolved = home / "versions", plan(experiment(), home)
    with pytest.raises(Interrupted):
        run(resolved, folder, options=QUIET, observer=StopIn(1))
    path = folder / "order-1/seed-0/record.json"
    path.write_text(path.read_text().replace("exact/1", "exact/0"))
    with pytest.raises(InputError, match="charts was judged by exact/0"):
        run(resolved, folder, resume=True, options=QUIET)


def test_the_digest_covers_every_row_that_any_entry_reads(home: Path) -> None:
    data = home / "twice"
    pico.write(data, "charts", "test", 8)
    test = f"{data}/charts/test.jsonl"
    tasks = [
        {"name": "long", "test": test, "metric": "exact"},
        {"name": "short", "test": test, "metric": "exact", "limit": 2},
    ]
    before = plan(experiment(held_out=tasks), home).digest
    image = sorted((data / "charts").rglob("*00006.png"))[0]
    Image.new("RGB", (84, 84), "red").save(image)
    assert plan(experiment(held_out=tasks), home).digest != before


def _numbers(record: Record) -> dict[tuple[str, ...], float]:
    return {(s.replicate, s.arm, s.stage, s.task): s.value for s in record.scores}
