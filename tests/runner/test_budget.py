"""Drift budgets in real runs: kept on the texts that steer, told on others, resumed, refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pico_tasks import small
from safetensors.torch import load_file

from narrowtune import pico
from narrowtune.delta import Line, kept, load
from narrowtune.errors import InputError
from narrowtune.experiment import Experiment, parse_experiment
from narrowtune.models.loading import load_model
from narrowtune.probes.gauge import Drift
from narrowtune.record import Record, read_record
from narrowtune.runner import Observer, Options, plan, run
from narrowtune.training import Interrupted, StepResult

QUIET = Options(device="cpu", save_models=False)
HELD_OUT = ("charts", "existence")
STEPS, LIMIT, BUDGET = 12, 6, 0.2


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("budget")
    for task in ("counting", "reading"):
        pico.write(folder / "data", task, "train", 48)
    for task in HELD_OUT:
        pico.write(folder / "data", task, "test", 12)
    return folder


def experiment(drift: object, arm: object = None, **more: object) -> Experiment:
    given: dict[str, object] = {
        "arms": [{"name": "arm", "recipe": "language", "drift": arm}],
        "training": {"batch_size": 8, "steps": STEPS, "learning_rate": 1e-3},
        "evaluate": [],
        "drift": drift,
    }
    return parse_experiment(small(HELD_OUT, **given | more))


def budget(action: str, nats: float = BUDGET, **more: object) -> dict[str, object]:
    return {"budget": nats, "action": action, "limit": LIMIT, "every": 2} | more


def run_with(
    home: Path, name: str, action: str, nats: float = BUDGET, **more: object
) -> tuple[Record, dict[str, torch.Tensor]]:
    record = run(plan(experiment(budget(action, nats), **more), home), home / name, options=QUIET)
    return record, trained(home / name)


def trained(folder: Path, stage: str = "counting") -> dict[str, torch.Tensor]:
    return load_file(folder / "arms" / "arm" / stage / "delta.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def rows(record: Record, probe: str, **keys: object) -> list[dict]:
    wanted = {"probe": probe} | keys
    return [row for row in record.readings if wanted.items() <= row.items()]


def ends(record: Record) -> tuple[dict, dict]:
    steering, unseen = rows(record, "drift", arm="arm")
    assert (steering["part"], unseen["part"]) == ("steering", "unseen")
    return steering, unseen


@pytest.fixture(scope="module")
def reported(home: Path) -> tuple[Record, dict[str, torch.Tensor]]:
    return run_with(home, "report", "report")


def test_report_only_tells(home: Path, reported: tuple[Record, dict]) -> None:
    record, weights = reported
    plain = run(plan(experiment(None), home), home / "plain", options=QUIET)
    assert same(weights, trained(home / "plain"))
    assert plain.losses == record.losses
    assert not plain.readings
    steering, unseen = ends(record)
    assert steering["value"] > BUDGET < unseen["value"]
    assert not steering["within"]
    assert steering["n"] == unseen["n"] == 2 * LIMIT
    assert steering["stderr"] > 0
    assert steering["unit"] == "nats"
    texts = {"charts": LIMIT, "existence": LIMIT}
    assert record.plan["drift"] == [
        {"measure": "kl", "limit": LIMIT, "steering": texts, "unseen": texts}
    ]
    assert any("12 texts of 2 held-out tasks steer" in n for n in record.plan["arms"][0]["notes"])


def test_the_reading_is_that_of_the_saved_weights(
    home: Path, reported: tuple[Record, dict]
) -> None:
    gauge = next(iter(plan(experiment(budget("report")), home).gauges.values()))
    gauge.remember(load_model("pico-qwen", device="cpu", dtype="float32"))
    tuned = load(
        "pico-qwen", delta=home / "report/arms/arm/counting/delta.safetensors", device="cpu"
    )
    steering, unseen = ends(reported[0])
    seen, checked = (Drift.of(gauge.by_task(tuned, unseen=part)).value for part in (False, True))
    assert seen == pytest.approx(steering["value"], rel=1e-6)
    assert checked == pytest.approx(unseen["value"], rel=1e-6)


@pytest.mark.parametrize("action", ["stop", "interpolate", "penalise"])
def test_a_budget_never_reached_changes_no_bit(
    home: Path, reported: tuple[Record, dict], action: str
) -> None:
    record, weights = run_with(home, f"far-{action}", action, 50.0)
    assert same(weights, reported[1])
    assert record.losses == reported[0].losses
    assert ends(record)[1]["value"] == ends(reported[0])[1]["value"]
    assert ends(record)[1]["within"]


def test_stop_ends_with_the_last_look_within(home: Path, reported: tuple[Record, dict]) -> None:
    record, weights = run_with(home, "stop", "stop")
    looks = rows(record, "drift_during")
    assert [row["step"] for row in looks] == list(range(2, looks[-1]["step"] + 1, 2))
    assert [row["accepted"] for row in looks] == [True] * (len(looks) - 1) + [False]
    steering, unseen = ends(record)
    kept_step, stopped = steering["kept_step"], looks[-1]["step"]
    assert 0 < kept_step == stopped - 2 < stopped < STEPS
    assert steering["stopped"]
    assert steering["value"] == looks[-2]["value"] <= BUDGET
    assert unseen["value"] > 0
    (cost,) = record.cost
    assert (cost.steps, cost.samples) == (stopped, 8 * stopped)
    assert record.losses == reported[0].losses[:stopped]
    again = {"batch_size": 8, "steps": STEPS, "learning_rate": 1e-3}
    until = run_until(home, kept_step, again)
    assert same(weights, until)


def run_until(home: Path, step: int, training: dict) -> dict[str, torch.Tensor]:
    """The masters that an interrupted plain run leaves in its checkpoint after a step."""
    folder = home / "until"
    with pytest.raises(Interrupted):
        resolved = plan(experiment(None, training=training), home)
        run(resolved, folder, options=Options("cpu", 0.0, False), observer=StopAfter(step + 1))
    tensors = load_file(folder / "arms/arm/counting/checkpoint.safetensors")
    names = (name for name in tensors if name.startswith("master/"))
    return {name.removeprefix("master/"): tensors[name] for name in names}


def test_a_stage_with_no_look_within_is_undone(home: Path) -> None:
    record, weights = run_with(home, "none", "stop", 1e-9)
    base = dict(load_model("pico-qwen", device="cpu", dtype="float32").named_parameters())
    assert all(torch.equal(tensor, base[name]) for name, tensor in weights.items())
    steering, unseen = ends(record)
    assert (steering["kept_step"], steering["value"], unseen["value"]) == (0, 0.0, 0.0)
    assert len(record.losses) == 2


def test_interpolate_agrees_with_a_fine_grid(home: Path, reported: tuple[Record, dict]) -> None:
    record, weights = run_with(home, "interpolate", "interpolate")
    steering, unseen = ends(record)
    curve = {row["alpha"]: row["value"] for row in rows(record, "drift_curve")}
    assert {0.0, 0.25, 0.5, 0.75, 1.0} <= curve.keys()
    assert curve[0.0] == 0.0
    assert curve[1.0] == ends(reported[0])[0]["value"]
    assert curve[steering["alpha"]] == steering["value"] <= BUDGET
    assert unseen["value"] > 0

    gauge = next(iter(plan(experiment(budget("report")), home).gauges.values()))
    model = load_model("pico-qwen", device="cpu", dtype="float32")
    gauge.remember(model)
    named = [(n, p) for n, p in model.named_parameters() if n in reported[1]]
    line = Line(kept(named), reported[1])
    step = 1 / 64

    def drift(alpha: float) -> float:
        line.put(named, alpha)
        return Drift.of(gauge.by_task(model)).at_most

    first = int(steering["alpha"] * 64) / 64  # the grid from there on: nothing larger fits
    largest = max(alpha for alpha in (first + step * i for i in range(5)) if drift(alpha) <= BUDGET)
    assert largest - step / 2 <= steering["alpha"] < largest + step
    line.put(named, steering["alpha"])
    assert all(torch.equal(parameter, weights[name]) for name, parameter in named)


def test_penalise_holds_its_budget_and_learns(home: Path, reported: tuple[Record, dict]) -> None:
    tight = 0.05
    record, _ = run_with(home, "penalise", "penalise", tight)
    looks = rows(record, "drift_during")
    assert [row["step"] for row in looks] == list(range(2, STEPS + 1, 2))
    assert max(row["lambda"] for row in looks) > 0
    steering, unseen = ends(record)
    assert steering["value"] <= tight
    assert unseen["value"] < ends(reported[0])[1]["value"]
    assert steering["n"] == LIMIT  # the other half pulled, and is not measured on
    assert record.losses[-1].loss < record.losses[0].loss / 2


class StopAfter(Observer):
    """Killed after some step."""

    def __init__(self, step: int, stage: str = "counting") -> None:
        self.at, self.stage, self.title = step, stage, ""

    def phase(self, text: str, total: int) -> None:
        self.title = text

    def step(self, result: StepResult, samples_per_second: float) -> None:
        if result.step == self.at and self.title.endswith(self.stage):
            raise KeyboardInterrupt


TWO = [
    {"name": name, "train": f"data/{name}/train.jsonl", "training": {"steps": steps}}
    for name, steps in (("reading", 2), ("counting", 8))
]


@pytest.mark.parametrize(("action", "nats"), [("stop", 0.3), ("penalise", 0.05)])
def test_a_resumed_stage_ends_with_the_same_bits(home: Path, action: str, nats: float) -> None:
    """Killed at step 3 of the second stage, and resumed from its checkpoint of step 2."""
    asked = experiment(budget(action, nats), stages=TWO)
    resolved = plan(asked, home)
    whole = run(resolved, home / f"whole-{action}", options=QUIET)
    folder, options = home / f"resumed-{action}", Options("cpu", 0.0, save_models=False)
    with pytest.raises(Interrupted):
        run(resolved, folder, options=options, observer=StopAfter(3))
    resumed = run(resolved, folder, resume=True, options=options)
    assert same(trained(folder), trained(home / f"whole-{action}"))
    during = rows(whole, "drift_during", stage="counting")
    assert during[-1]["step"] > 3
    assert action == "stop" or max(row["lambda"] for row in during) > 0
    assert resumed.readings == whole.readings
    assert resumed.losses == whole.losses
    assert [row.held for row in resumed.ledger] == [True, True]


def test_stop_and_interruption_at_the_same_step(home: Path) -> None:
    """The checkpoint of a stage that has ended holds the kept weights, and ends it again."""
    asked = experiment(budget("stop", 1e-9))

    class Ask(Observer):
        def step(self, result: StepResult, samples_per_second: float) -> None:
            if result.step == 2:
                signal_this_process()

    with pytest.raises(Interrupted):
        run(plan(asked, home), home / "both", options=QUIET, observer=Ask())
    resumed = run(plan(asked, home), home / "both", resume=True, options=QUIET)
    assert len(resumed.losses) == 2
    assert ends(resumed)[0]["kept_step"] == 0


def signal_this_process() -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGTERM)


def test_an_arm_has_a_budget_of_its_own_and_is_told_of_it(home: Path) -> None:
    notes: list[str] = []

    class Listen(Observer):
        def note(self, text: str) -> None:
            notes.append(text)

    own = budget("report", 1e-6, measure="reverse_kl", limit=1)
    resolved = plan(experiment(budget("stop"), own), home)
    record = run(resolved, home / "own", options=QUIET, observer=Listen())
    steering, _ = ends(record)
    assert (steering["action"], steering["measure"], steering["n"]) == ("report", "reverse_kl", 2)
    assert steering["stderr"] is None
    assert [note for note in notes if "beyond the budget of 1e-06" in note and "unseen" in note]
    assert resolved.gauges.keys() == {("reverse_kl", 1)}


def test_probes_are_still_read_when_a_run_stopped_after_its_budget(home: Path) -> None:
    asked = experiment(budget("report"), probes=[{"probe": "kl", "limit": 2}])

    class Stop(Observer):
        def phase(self, text: str, total: int) -> None:
            if text == "arm · probing after counting":
                raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        run(plan(asked, home), home / "probing", options=QUIET, observer=Stop())
    assert rows(read_record(home / "probing"), "drift", arm="arm")
    resumed = run(plan(asked, home), home / "probing", resume=True, options=QUIET)
    assert rows(resumed, "kl", arm="arm")
    assert len(rows(resumed, "drift", arm="arm")) == 2


def test_few_rows_are_shared_half_and_half(home: Path) -> None:
    resolved = plan(experiment(budget("report", limit=32)), home)
    ((_, gauge),) = resolved.gauges.items()
    for steering, unseen in zip(gauge.steering, gauge.unseen, strict=True):
        texts = [{row.example.id for row in part.encoded} for part in (steering, unseen)]
        assert [len(part) for part in texts] == [6, 6]
        assert not texts[0] & texts[1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"held_out": []}, "a drift budget is measured on held-out tasks of your own files"),
        (
            {
                "held_out": [
                    {
                        "name": "charts",
                        "test": "data/charts/test.jsonl",
                        "metric": "exact",
                        "limit": 1,
                    }
                ]
            },
            "task charts has 1 row, and a drift budget needs two",
        ),
        ({"drift": {"budget": 0}}, "drift.budget"),
        ({"drift": {"budget": 0.1, "action": "interpolat"}}, "interpolate"),
        ({"drift": {"budget": 0.1, "mesure": "kl"}}, "measure"),
    ],
)
def test_what_cannot_be_kept_is_told_before_anything_runs(
    home: Path, more: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        plan(experiment(**({"drift": budget("stop")} | more)), home)


def test_no_budget_changes_no_digest(home: Path) -> None:
    without = plan(experiment(None), home)
    assert "drift" not in without.to_dict()
    assert without.digest != plan(experiment(budget("report")), home).digest
