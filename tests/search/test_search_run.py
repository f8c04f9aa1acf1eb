"""A search over real training of the bundled model: rungs, limits, resuming, and what it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from narrowtune import pico
from narrowtune.analysis.choosing import ranked, standings
from narrowtune.errors import InputError
from narrowtune.experiment import Experiment, load_experiment, parse_experiment
from narrowtune.record import Costs, read_record, read_search
from narrowtune.report import read_samples
from narrowtune.report.recommended import read_recommendation, recommendation_to_dict
from narrowtune.runner import Observer, Options, Plan, plan, run
from narrowtune.search import Budget, recommend, search, write_recommended
from narrowtune.search.budget import Clock
from narrowtune.training import Interrupted, StepResult

QUIET = Options(device="cpu")
LONG = Budget(seconds=100_000.0, allowed_loss=0.5)
WILD = "gate-up@learning_rate=1e30"
ARMS = [
    {"name": "gate-up", "recipe": "gate-up", "sweep": {"learning_rate": [1e-4, 1e-3, 1e30]}},
    {"name": "attention", "recipe": "attention", "sweep": {"learning_rate": [1e-4, 1e-3]}},
]
# Without clipping and warm-up the second step's loss at a rate of 1e30 is no number.
TRAINING = {"batch_size": 4, "steps": 18, "warmup": 0.0, "max_grad_norm": 1e30}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    pico.write(folder / "data", "counting", "train", 80)
    for task in ("counting", "charts"):
        pico.write(folder / "data", task, "test", 24)
    return folder


def experiment(**more: object) -> Experiment:
    def scored(task: str) -> dict[str, Any]:
        test = f"data/{task}/test.jsonl"
        return {"name": task, "test": test, "metric": pico.METRICS[task], "max_new_tokens": 6}

    facts: dict[str, object] = {
        "model": {"id": "pico-qwen", "dtype": "float32"},
        "stages": [scored("counting") | {"train": "data/counting/train.jsonl"}],
        "held_out": [scored("charts")],
        "arms": ARMS,
        "training": TRAINING,
    }
    return parse_experiment(facts | more)


@pytest.fixture(scope="module")
def resolved(home: Path) -> Plan:
    return plan(experiment(), home)


class Stopper(Observer):
    """Counts steps, and breaks off at one of them."""

    def __init__(self, at: int = -1) -> None:
        self.steps, self.at = 0, at
        self.notes: list[str] = []
        self.phases: dict[str, list[str]] = {}

    def phase(self, title: str, total: int) -> None:
        rung = next((note for note in reversed(self.notes) if note.startswith("rung-")), "pilot")
        self.phases.setdefault(rung.partition(":")[0], []).append(title)

    def step(self, result: StepResult, samples_per_second: float) -> None:
        self.steps += 1
        if self.steps == self.at:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def halving(monkeypatch: pytest.MonkeyPatch, resolved: Plan) -> Budget:
    """A budget in which all five fit for a third of the steps, and two for all, as predicted."""
    costs = Costs(fixed=1.0, per_token=1.0, per_test=1.0)
    monkeypatch.setattr(search, "measured", lambda plan, run: costs)
    monkeypatch.setattr(search, "learned_from", lambda *given: costs)
    monkeypatch.setattr(search, "telling_share", lambda plan: 0.0)
    monkeypatch.setattr(Clock, "left", property(lambda self: self.seconds))
    prices = search.prices(resolved, costs)
    rungs = search.designed(prices, 5, 1e9)
    assert rungs is not None
    in_full = prices.whole(rungs[0])
    return Budget(seconds=0.8 * in_full, allowed_loss=0.5)


@pytest.fixture(scope="module")
def whole(resolved: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search with time for everything."""
    out = tmp_path_factory.mktemp("whole") / "out"
    recommend(resolved, out, LONG, options=QUIET)
    return out


def test_with_time_for_all_there_is_one_rung_of_whole_trainings(whole: Path) -> None:
    found = read_search(whole)
    assert (found.status, len(found.rungs)) == ("complete", 1)
    assert len(found.rungs[0].arms) == 5
    record = read_record(whole / "rung-1")
    assert {row.steps for row in record.cost} == {18}
    assert {score.n for score in record.scores} == {24}
    assert 0 < found.spent < 1000
    pilot = read_record(whole / "pilot")
    assert {row.steps for row in pilot.cost} == {4}
    assert {score.n for score in pilot.scores} == {16}


def test_the_recommended_arm_learned_most_of_those_within_the_loss(whole: Path) -> None:
    found = read_recommendation(whole)
    record = read_record(whole / "rung-1")
    assert found.choice is not None
    table = {(row.arm, row.task): row.value for row in record.scores}
    inside = [
        arm
        for arm in found.search.candidates
        if (arm, "charts") in table and table[arm, "charts"] >= table["base", "charts"] - 0.5
    ]
    most = max(table[arm, "counting"] for arm in inside)
    assert table[found.choice.best.arm, "counting"] == most


def test_a_candidate_that_diverges_is_given_up(whole: Path) -> None:
    found = read_recommendation(whole)
    (wild,) = found.of_fate("given up")
    assert (wild.name, "loss nan" in wild.why) == (WILD, True)
    rows = recommendation_to_dict(found)["candidates"]
    assert next(row for row in rows if row["name"] == WILD)["fate"] == "given up"


def test_what_is_recommended_can_be_run_and_gives_the_same_scores(
    whole: Path, home: Path, tmp_path: Path
) -> None:
    found = read_recommendation(whole)
    assert found.choice is not None
    name = found.choice.best.arm
    arm = next(one for one in experiment().arms if one.name == name)
    path = write_recommended(experiment(), arm, home, whole)
    again = run(plan(load_experiment(path), path.parent), tmp_path / "run", options=QUIET)
    before = {s.task: s.value for s in read_record(whole / "rung-1").scores if s.arm == name}
    assert {s.task: s.value for s in again.scores if s.arm == arm.family} == before


def test_the_better_ones_are_taught_longer(resolved: Plan, halving: Budget, tmp_path: Path) -> None:
    state = recommend(resolved, tmp_path / "out", halving, options=QUIET)
    first, second, *_ = state.rungs
    assert (len(first.arms), first.steps) == (5, pytest.approx(1 / 3))
    early, late = (read_record(tmp_path / "out" / row.name) for row in (first, second))
    assert {row.steps for row in early.cost} == {6}
    assert {row.steps for row in late.cost} == {18}
    assert {score.n for score in early.scores} == {16}
    assert {score.n for score in late.scores} == {24}
    samples = read_samples(tmp_path / "out" / first.name, early)
    names = [one.arm for one in ranked(standings(early, samples), 0.5)]
    assert list(second.arms) == names[: len(second.arms)]
    assert len(second.arms) == 2


@pytest.mark.slow
def test_time_that_is_left_goes_to_those_that_were_dropped(
    resolved: Plan, halving: Budget, tmp_path: Path
) -> None:
    watch = Stopper()
    state = recommend(resolved, tmp_path / "out", halving, options=QUIET, observer=watch)
    taught = [arm for row in state.rungs if row.steps == 1.0 for arm in row.arms]
    assert len(taught) == len(set(taught)) == 4  # all but the one that diverged
    assert WILD not in taught
    third = read_record(tmp_path / "out" / "rung-3")
    second = read_record(tmp_path / "out" / "rung-2")
    base = [[s for s in one.scores if s.arm == "base"] for one in (second, third)]
    assert base[0] == base[1]
    # Taken over, not answered again.
    assert not any(phase.startswith("base") for phase in watch.phases["rung-3"])
    assert any(phase.startswith("base") for phase in watch.phases["rung-2"])


def test_an_interrupted_search_goes_on_to_the_same_end(
    resolved: Plan, whole: Path, tmp_path: Path
) -> None:
    stopper = Stopper(at=30)
    with pytest.raises(Interrupted):
        recommend(resolved, tmp_path / "out", LONG, options=QUIET, observer=stopper)
    assert read_search(tmp_path / "out").status == "interrupted"
    spent = read_search(tmp_path / "out").spent
    rest = Stopper()
    state = recommend(resolved, tmp_path / "out", LONG, resume=True, options=QUIET, observer=rest)
    assert state.spent > spent
    assert state.rungs == read_search(whole).rungs
    ours, theirs = (read_record(one / "rung-1") for one in (tmp_path / "out", whole))
    assert ours.scores == theirs.scores
    # No candidate but the one that was cut is taught again; starting over would take 30 more.
    assert stopper.steps + rest.steps < 4 + 4 * 18 + 2 + 18
    assert not any("pilot" in note for note in rest.notes)


def test_when_the_time_is_up_it_ends_with_what_it_has(
    resolved: Plan, halving: Budget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Stopper()
    monkeypatch.setattr(Clock, "is_over", lambda self: watch.steps >= 14)
    state = recommend(resolved, tmp_path / "out", halving, options=QUIET, observer=watch)
    assert (state.status, len(state.rungs)) == ("complete", 1)
    assert watch.steps < 20
    assert "the time is used up" in watch.notes
    found = read_recommendation(tmp_path / "out")
    assert found.choice is not None
    assert found.of_fate("not finished")
    monkeypatch.undo()
    more = recommend(resolved, tmp_path / "out", LONG, resume=True, options=QUIET)
    assert more.seconds == LONG.seconds
    assert read_record(tmp_path / "out" / "rung-1").status == "complete"
    assert not read_recommendation(tmp_path / "out").of_fate("not finished")


@pytest.mark.slow
def test_too_little_time_says_how_much_is_needed(
    resolved: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"used up before one candidate .* more --minutes"):
        recommend(resolved, tmp_path / "out", Budget(seconds=0.01), options=QUIET)
    dear = Costs(fixed=1.0, per_token=1e6, per_test=1.0)
    with monkeypatch.context() as patched:
        patched.setattr(search, "measured", lambda plan, run: dear)
        with pytest.raises(InputError, match=r"minutes are too few.* more --minutes and --resume"):
            recommend(resolved, tmp_path / "dear", Budget(seconds=1e5), options=QUIET)
    budget = Budget(seconds=100_000.0)
    state = recommend(resolved, tmp_path / "out", budget, resume=True, options=QUIET)
    assert state.status == "complete"


def test_a_candidate_that_takes_too_much_memory_is_given_up(
    resolved: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = iter([1, 1, 1, 1])  # the pilot's steps; then it is more
    monkeypatch.setattr("narrowtune.search.budget.peak_bytes", lambda device: next(taken, 2**40))
    budget = Budget(seconds=100_000.0, allowed_loss=0.5, memory=2**33)
    recommend(resolved, tmp_path / "out", budget, options=QUIET)
    found = read_recommendation(tmp_path / "out")
    assert found.choice is None
    fates = {one.fate for one in found.candidates}
    assert fates == {"given up"}
    assert "it took 1024.00 GiB, more than the 8.00 GiB allowed" in found.candidates[0].why


@pytest.mark.slow
def test_where_the_widest_takes_too_much_the_next_is_the_pilot(
    resolved: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = iter([2**40])
    monkeypatch.setattr("narrowtune.search.budget.peak_bytes", lambda device: next(taken, 1))
    budget = Budget(seconds=100_000.0, allowed_loss=0.5, memory=2**33)
    state = recommend(resolved, tmp_path / "out", budget, options=QUIET)
    wide = ["gate-up@learning_rate=1e-3", WILD]  # the second diverges in the pilot
    assert list(state.left_out) == wide
    assert len(state.candidates) == 3
    found = read_recommendation(tmp_path / "out")
    assert found.choice is not None
    assert {one.name for one in found.of_fate("not tried")} == set(wide)


@pytest.mark.slow
def test_a_candidate_that_is_out_of_memory_is_given_up(resolved: Plan, tmp_path: Path) -> None:
    class Full(Observer):
        """The device is full in the second candidate's first step after the pilot."""

        title = ""

        def phase(self, title: str, total: int) -> None:
            self.title = title

        def step(self, result: StepResult, samples_per_second: float) -> None:
            if self.title.startswith("attention@learning_rate=1e-4"):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    recommend(resolved, tmp_path / "out", LONG, options=QUIET, observer=Full())
    found = read_recommendation(tmp_path / "out")
    given_up = {one.name: one.why for one in found.of_fate("given up")}
    assert "CUDA out of memory" in given_up["attention@learning_rate=1e-4"]
    assert found.choice is not None


def test_what_cannot_fit_is_never_tried(resolved: Plan, tmp_path: Path) -> None:
    sizes = {arm.name: arm.trained_numel for arm in resolved.arms}
    small, large = sorted(set(sizes.values()))
    total = resolved.arms[0].selection.total_numel
    between = 4 * total + 12 * small + 6 * (large - small)
    with pytest.raises(InputError, match="weights, gradients and optimiser alone"):
        recommend(resolved, tmp_path / "none", Budget(1e5, memory=4 * total), options=QUIET)
    # What fits by this count is less than the process takes: all that is tried is given up.
    with pytest.raises(InputError, match="the pilot") as told:
        recommend(resolved, tmp_path / "out", Budget(1e5, memory=between), options=QUIET)
    assert len(told.value.problems) == 5
    assert read_search(tmp_path / "out").candidates == ()


def test_a_search_cut_in_its_pilot_measures_it_anew(resolved: Plan, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        recommend(resolved, tmp_path / "out", LONG, options=QUIET, observer=Stopper(at=2))
    assert read_search(tmp_path / "out").costs is None
    state = recommend(resolved, tmp_path / "out", LONG, resume=True, options=QUIET)
    assert {row.steps for row in read_record(tmp_path / "out" / "pilot").cost} == {4}
    assert state.costs is not None
    assert state.costs.fixed > 0


@pytest.mark.slow
def test_more_time_after_a_shortened_search_goes_to_its_finalists(
    resolved: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = Costs(fixed=1.0, per_token=1.0, per_test=1.0)
    monkeypatch.setattr(search, "measured", lambda plan, run: costs)
    monkeypatch.setattr(search, "learned_from", lambda *given: costs)
    whole = search.prices(resolved, costs)
    left = [0.62 * 2 * whole.teaching]
    monkeypatch.setattr(Clock, "left", property(lambda self: left[-1]))

    class UsedUp(Observer):
        """No time is left when the first rung has begun."""

        def note(self, text: str) -> None:
            left.extend([0.0] * text.startswith("rung-1"))

    monkeypatch.setattr(Clock, "is_over", lambda self: False)
    out = tmp_path / "out"
    state = recommend(resolved, out, LONG, options=QUIET, observer=UsedUp())
    assert state.planned[-1].steps < 1.0
    before = read_recommendation(out)
    assert before.choice is not None
    left.append(1e5)
    state = recommend(resolved, out, LONG, resume=True, options=QUIET)
    longer = next(row for row in state.rungs if row.steps == 1.0)
    assert before.choice.best.arm in longer.arms
    assert len(longer.arms) >= 2


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        ({"seconds": float("inf")}, "seconds above 0"),
        ({"seconds": 0.0}, "seconds above 0"),
        ({"seconds": 1.0, "allowed_loss": 2.0}, "two points are 0.02"),
        ({"seconds": 1.0, "memory": 0}, "bytes above 0"),
    ],
)
def test_what_is_no_budget_is_refused(budget: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Budget(**budget)


def test_another_search_is_not_gone_on_with(resolved: Plan, whole: Path, home: Path) -> None:
    with pytest.raises(InputError, match="already holds a search"):
        recommend(resolved, whole, LONG, options=QUIET)
    with pytest.raises(InputError, match="allowed_loss"):
        recommend(resolved, whole, Budget(1e5, allowed_loss=0.1), resume=True, options=QUIET)
    with pytest.raises(InputError, match="minutes are spent already"):
        recommend(resolved, whole, Budget(0.001, allowed_loss=0.5), resume=True, options=QUIET)
    other = plan(experiment(arms=ARMS[:1]), home)
    with pytest.raises(InputError, match="another experiment or other data"):
        recommend(other, whole, LONG, resume=True, options=QUIET)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"arms": [{"name": "a", "recipe": "gate-up"}]}, "one candidate"),
        ({"held_out": []}, "nothing is held out"),
        ({"evaluate": ["base"]}, "evaluate must hold"),
    ],
)
def test_nothing_to_compare_is_refused(
    more: dict[str, object], told: str, home: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=told):
        recommend(plan(experiment(**more), home), tmp_path / "out", LONG, options=QUIET)
    assert not (tmp_path / "out").exists()
