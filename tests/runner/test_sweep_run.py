"""A sweep on the bundled model: cells are arms, and one that diverges does not end the run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from pico_tasks import scored, small

from narrowtune import pico
from narrowtune.analysis import headline
from narrowtune.errors import RunFailed
from narrowtune.experiment import Experiment, parse_experiment
from narrowtune.record import Record, read_record
from narrowtune.report import read_samples
from narrowtune.runner import Observer, Options, plan, run
from narrowtune.training import Interrupted, StepResult

QUIET = Options(device="cpu", save_models=False)
WILD = "gate-up@learning_rate=1e30"
TAME = "gate-up@learning_rate=1e-3"
ARM = {"name": "gate-up", "recipe": "gate-up"}
# Without clipping and warm-up the second step's loss is no number.
TRAINING = {"batch_size": 8, "steps": 3, "warmup": 0.0, "max_grad_norm": 1e30}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    pico.write(folder / "data", "counting", "train", 24)
    for task in ("counting", "charts"):
        pico.write(folder / "data", task, "test", 8)
    return folder


def experiment(**more: object) -> Experiment:
    stage = scored("counting") | {"train": "data/counting/train.jsonl"}
    swept = ARM | {"sweep": {"learning_rate": [1e30, 1e-3]}}
    return parse_experiment(
        small(("charts",)) | {"stages": [stage], "arms": [swept], "training": TRAINING} | more
    )


@pytest.fixture(scope="module")
def swept(home: Path) -> Record:
    return run(plan(experiment(), home), home / "out", options=QUIET)


class Watched(Observer):
    """Counts steps; breaks off at one of them."""

    def __init__(self, stop: int = -1) -> None:
        self.steps, self.stop = 0, stop

    def step(self, result: StepResult, samples_per_second: float) -> None:
        self.steps += 1
        if self.steps == self.stop:
            raise KeyboardInterrupt


def test_the_plan_lists_the_cells(home: Path) -> None:
    arms = plan(experiment(), home).to_dict()["arms"]
    assert [arm["name"] for arm in arms] == [WILD, TAME]
    assert [arm["stages"][0]["learning_rate"] for arm in arms] == [1e30, 1e-3]


def test_a_cell_that_diverges_is_recorded_and_the_next_is_taught(swept: Record) -> None:
    assert swept.status == "complete"
    (row,) = swept.diverged
    assert (row.arm, row.stage, row.step) == (WILD, "counting", 2)
    assert "loss nan" in row.reason
    assert {score.arm for score in swept.scores} == {"base", TAME}
    assert {cost.arm for cost in swept.cost} == {TAME}
    assert all(math.isfinite(one.loss) for one in swept.losses)


def test_the_report_says_it(swept: Record, home: Path) -> None:
    told = headline(swept, read_samples(home / "out", swept))
    assert f"Diverged: {WILD} (while taught counting, at step 2)" in told
    assert TAME in told


def test_a_cell_gives_what_the_same_arm_gives_alone(swept: Record, home: Path) -> None:
    arm = ARM | {"training": {"learning_rate": 1e-3}}
    alone = run(plan(experiment(arms=[arm]), home), home / "alone", options=QUIET)
    values = {(score.stage, score.task): score.value for score in alone.scores}
    assert values == {(score.stage, score.task): score.value for score in swept.scores}


def test_resuming_does_not_repeat_what_diverged(swept: Record, home: Path) -> None:
    watched = Watched()
    again = run(plan(experiment(), home), home / "out", resume=True, options=QUIET)
    assert again == swept
    saving = Options(device="cpu", save_models=True)
    for _ in range(2):
        saved = run(
            plan(experiment(), home), home / "out", resume=True, options=saving, observer=watched
        )
        assert watched.steps == 0 and saved.diverged == swept.diverged
    assert not (home / "out" / "models" / WILD).exists()


def test_interrupted_after_the_divergence_it_goes_on_behind_it(swept: Record, home: Path) -> None:
    out, resolved = home / "stopped", plan(experiment(), home)
    with pytest.raises(Interrupted):  # one step of the cell that diverges, then two of the next
        run(resolved, out, options=QUIET, observer=Watched(stop=3))
    assert read_record(out).diverged == swept.diverged
    watched = Watched()
    resumed = run(resolved, out, resume=True, options=QUIET, observer=watched)
    assert watched.steps == 3 and resumed.diverged == swept.diverged
    assert [(s.arm, s.task, s.value) for s in resumed.scores] == [
        (s.arm, s.task, s.value) for s in swept.scores
    ]


def test_an_arm_that_is_no_cell_still_fails_the_run(home: Path) -> None:
    wild = ARM | {"training": {"learning_rate": 1e30}}
    with pytest.raises(RunFailed, match="loss nan"):
        run(plan(experiment(arms=[wild]), home), home / "failed", options=QUIET)
    assert not read_record(home / "failed").diverged


def test_replicates_gather_what_diverged(home: Path) -> None:
    resolved = plan(experiment(seeds=[0, 1]), home)
    gathered = run(resolved, home / "seeds", options=QUIET)
    assert [(row.replicate, row.arm) for row in gathered.diverged] == [
        ("order-1/seed-0", WILD), ("order-1/seed-1", WILD),
    ]  # fmt: skip
