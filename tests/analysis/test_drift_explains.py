"""Drift against held-out loss: points worked out by hand, coefficients against scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from narrowtune.analysis import Run, to_dict
from narrowtune.analysis.correlating import pearson, ranks, spearman
from narrowtune.analysis.correlation import correlation, correlations
from narrowtune.analysis.drift import DriftPoint, Evidence, drift_by_stage
from narrowtune.analysis.during import step_points
from narrowtune.analysis.measures import BIAS, KL, NUMBERS, OWN_ANSWERS, TOP1
from narrowtune.record import Record


def row(point: tuple[str, str], probe: str, task: str, value: float | None, **more: Any) -> dict:
    return {
        "arm": point[0], "stage": point[1], "probe": probe, "task": task, "at": "all", "part": "",
        "value": value, "unit": "nats", "n": 8, "stderr": 0.1, "reason": "",
    } | more  # fmt: skip


MODELS = {
    # (arm, stage): KL on h1, on h2, number bias; losses (see `by_hand`): h1, h2.
    ("wide", "s1"): (4.0, 1.0, 0.9),  # 0.50, 0.20
    ("wide", "s2"): (2.0, 0.4, 0.3),  # 0.20, 0.10
    ("narrow", "s1"): (0.1, 0.2, 0.5),  # 0.00, 0.01
    ("narrow", "s2"): (0.2, 0.0, 0.1),  # 0.01, 0.00
}


@pytest.fixture
def read(by_hand: Record) -> Record:
    rows = [row(("base", "base"), "number_bias", "captions", 0.1)]
    for task, number in (("h1", 0.2), ("h2", 0.0)):
        rows += [
            row(("base", "base"), "kl", task, 0.0),
            row(("base", "base"), "mass", task, number, part="number"),
            row(("base", "base"), "mass", task, 0.05, part="answer:s1"),
        ]
    for point, (first, second, bias) in MODELS.items():
        rows += [
            row(point, "kl", "h1", first),
            row(point, "kl", "h2", second),
            row(point, "kl", "h1", 99.0, step=10),  # during training: of no scored model
            row(point, "number_bias", "captions", bias),
        ]
    rows += [
        row(("wide", "s1"), "top1", "h1", 0.25),
        row(("wide", "s1"), "mass", "h1", 0.7, part="number"),
        row(("wide", "s1"), "mass", "h2", 0.3, part="number"),
        row(("wide", "s1"), "mass", "h1", 0.45, part="answer:s1"),
        row(("wide", "s2"), "mass", "h1", 0.45, part="answer:s1"),  # not what s2 taught
        row(("wide", "s1"), "mass", "h1", None, part="time", reason="no token"),
        row(("wide", "s1"), "moved", "h1", 0.3, part="7"),
        row(("wide", "s1"), "moved", "h1", -0.5, part="above"),
        row(("wide", "s1"), "moved", "h2", 0.1, part="7"),
    ]
    return by_hand.model_copy(update={"readings": tuple(rows)})


def test_points_hold_drift_and_loss_of_the_same_model_and_task(read: Record) -> None:
    evidence = Evidence.of([Run(read)])
    found = {(p.arm, p.stage, p.task): (p.drift, p.loss) for p in evidence.points(KL)}
    assert len(found) == 8
    assert found["wide", "s1", "h1"] == pytest.approx((4.0, 0.5))
    assert found["narrow", "s1", "h2"] == pytest.approx((0.2, 0.01))
    models = {(p.arm, p.stage): (p.drift, p.loss) for p in evidence.models(KL)}
    assert models["wide", "s1"] == pytest.approx((2.5, 0.35))
    own = {(p.arm, p.stage): (p.drift, p.loss) for p in evidence.models(BIAS)}
    assert own["wide", "s1"] == pytest.approx((0.8, 0.35))  # 0.9 less the base's 0.1


def test_steps_by_hand(read: Record) -> None:
    """Drift while a stage is taught, against the growth of the loss on right answers there."""
    rows = []
    for arm, stage, step, (first, second), losses in (
        ("wide", "s1", 1, (0.2, 0.4), (0.1, 0.3)),
        ("wide", "s1", 10, (1.0, 2.0), (0.9, 1.5)),
        ("wide", "s2", 1, (3.0, 1.0), (2.0, 2.0)),
        ("narrow", "s1", 10, (0.1, 0.1), (0.0, 0.1)),
    ):
        for task, kl, loss in (("h1", first, losses[0]), ("h2", second, losses[1])):
            rows.append(row((arm, stage), "kl", task, kl, step=step))
            rows.append(row((arm, stage), "answer_loss", task, loss, step=step))
        rows.append(row((arm, stage), "top1", "h1", 0.75, step=step))
    unscored = row(("narrow", "s2"), "kl", "h1", 5.0, step=1)  # read, but not what it lost
    record = read.model_copy(update={"readings": (*rows, unscored)})
    points = {(p.arm, p.stage): (p.drift, p.loss) for p in step_points([Run(record)], KL)}
    assert len(points) == 4
    assert points["wide", "s1 step 10"] == pytest.approx((1.5, 1.2))
    assert points["narrow", "s1 step 10"] == pytest.approx((0.1, 0.05))
    assert {p.drift for p in step_points([Run(record)], TOP1)} == {0.25}
    assert not step_points([Run(record)], OWN_ANSWERS)
    (found,) = [one for one in correlations([Run(record)], [KL]) if one.level == "steps"]
    assert (found.points, found.arms) == (4, 2)
    assert found.spearman.value == pytest.approx(1.0)
    assert "no interval from 2 arms" in found.reason
    assert not any(one.level == "steps" for one in correlations([Run(read)], [KL]))


def test_a_model_without_all_tasks_has_no_mean(read: Record) -> None:
    kept = [r for r in read.readings if (r["arm"], r["stage"], r["task"]) != ("wide", "s1", "h2")]
    evidence = Evidence.of([Run(read.model_copy(update={"readings": tuple(kept)}))])
    assert len(evidence.points(KL)) == 7
    assert [(p.arm, p.stage) for p in evidence.models(KL)] == [*MODELS][1:]


def test_coefficients_by_hand(read: Record) -> None:
    found = {(one.measure, one.level): one for one in correlations([Run(read)])}
    # Models: drift 2.5 1.2 .15 .1, loss .35 .15 .005 .005: ranks 4 3 2 1 and 4 3 1.5 1.5.
    models = found[KL, "models"]
    assert models.spearman.value == pytest.approx(4.5 / (5 * 4.5) ** 0.5)
    # Deviations 1.5125 .2125 -.8375 -.8875 and .2225 .0225 -.1225 -.1225.
    assert models.pearson.value == pytest.approx(0.552625 / (3.821875 * 0.080025) ** 0.5)
    assert models.spearman.low is None
    assert models.reason == "no interval from 2 arms: it takes 4"
    # Within h1: drift 4 3 1 2, loss 4 3 1 2; within h2: drift 4 3 2 1, loss 4 3 2 1.
    assert found[KL, "within tasks"].spearman.value == pytest.approx(1.0)
    assert found[KL, "tasks"].spearman.value < 1
    assert found[TOP1, "models"].reason == "1 point, and it takes 4"
    assert (BIAS, "models") in found
    assert (BIAS, "tasks") not in found


def test_without_readings_there_is_nothing(by_hand: Record) -> None:
    assert correlations([Run(by_hand)]) == ()
    assert drift_by_stage([Run(by_hand)]) == ()
    assert to_dict(by_hand)["drift"] is None
    assert correlations([]) == ()


def test_drift_by_stage_by_hand(read: Record) -> None:
    first, second = drift_by_stage([Run(read)])[:2]
    assert (first.arm, first.stage, first.runs) == ("wide", "s1", 1)
    assert first.values[KL] == pytest.approx(2.5)
    assert first.values[TOP1] == pytest.approx(0.75)
    assert first.values[NUMBERS] == pytest.approx((0.5 + 0.3) / 2)
    assert first.values[OWN_ANSWERS] == pytest.approx(0.4)
    assert OWN_ANSWERS not in second.values  # s2's own answers were not read
    assert first.gained == (("7", pytest.approx(0.2)),)
    assert first.lost == (("above", pytest.approx(-0.25)),)  # unmoved on h2, as far as is told


def test_replicates_are_pooled(read: Record) -> None:
    other = [r | {"value": r["value"] + 1.0} if r["probe"] == "kl" else r for r in read.readings]
    runs = [Run(read), Run(read.model_copy(update={"readings": tuple(other)}), seed=1)]
    first = drift_by_stage(runs)[0]
    assert first.runs == 2
    assert first.values[KL] == pytest.approx(3.0)
    assert len(Evidence.of(runs).points(KL)) == 16
    assert correlations(runs)[0].replicates == 2


def test_the_export_names_measures_and_reasons(read: Record) -> None:
    drift = to_dict(read)["drift"]
    assert drift["correlations"][0] | {"spearman": 0, "pearson": 0} == {
        "probe": "kl", "at": "all", "part": "", "taken": "value", "level": "models", "spearman": 0,
        "pearson": 0, "points": 4, "arms": 2, "replicates": 1,
        "reason": "no interval from 2 arms: it takes 4",
    }  # fmt: skip
    stage = drift["after_stages"][0]
    assert stage["gained"] == [{"token": "7", "change": pytest.approx(0.2)}]
    assert stage["measures"][0]["value"] == pytest.approx(2.5)
    assert drift["budget"] == drift["layers"] == []


def test_constant_sides_are_not_available() -> None:
    points = [DriftPoint(0, f"a{i}", "s", "", 0.5, 0.1 * i) for i in range(6)]
    flat = correlation(KL, "models", points)
    assert flat.spearman is None
    assert flat.reason == "the reading is the same for all"
    turned = [DriftPoint(0, p.arm, "s", "", p.loss, 0.3) for p in points]
    assert correlation(KL, "models", turned).reason == "the loss is the same for all"
    one_each = [DriftPoint(0, f"a{i}", "s", f"t{i}", i, i) for i in range(6)]
    assert (
        correlation(KL, "within tasks", one_each).reason
        == "within no task do both drift and loss differ"
    )


def chance_points(arms: int, tasks: int = 1, runs: int = 1, seed: int = 0) -> list[DriftPoint]:
    chance = np.random.default_rng(seed)
    return [
        DriftPoint(run, f"a{arm}", f"s{stage}", f"t{task}", drift, drift + chance.normal(0, 0.5))
        for arm in range(arms)
        for run in range(runs)
        for stage in range(4)
        for task in range(tasks)
        for drift in [chance.normal(0.3 * arm, 1.0)]
    ]


def test_coefficients_are_scipys_and_lie_within_their_intervals() -> None:
    points = chance_points(7)
    found = correlation(KL, "tasks", points)
    x, y = [p.drift for p in points], [p.loss for p in points]
    assert found.spearman.value == pytest.approx(spearmanr(x, y).statistic)
    assert found.pearson.value == pytest.approx(pearsonr(x, y).statistic)
    for one in (found.spearman, found.pearson):
        assert -1 < one.low < one.value < one.high < 1
    assert found == correlation(KL, "tasks", points)  # the same record, the same interval


def test_weights_are_repeated_points() -> None:
    chance = np.random.default_rng(1)
    x, y = chance.integers(0, 5, 30).astype(float), chance.normal(size=30)
    weights = chance.integers(0, 4, (3, 30)).astype(float)
    for draw, s, p in zip(
        weights, spearman(x, y, weights, [0] * 30), pearson(x, y, weights, [0] * 30), strict=True
    ):
        again = np.repeat(np.arange(30), draw.astype(int))
        assert s == pytest.approx(spearmanr(x[again], y[again]).statistic)
        assert p == pytest.approx(pearsonr(x[again], y[again]).statistic)
    assert ranks(np.array([3.0, 1.0, 1.0]), np.ones((1, 3))).tolist() == [
        pytest.approx([5 / 6, 1 / 3, 1 / 3])
    ]


def test_tasks_that_drift_and_lose_more_do_not_make_the_correlation_within() -> None:
    """Simpson: in each task more drift goes with less loss, over both with more."""
    points = [
        DriftPoint(0, f"a{i}", "s", task, 10 * far + i, 10 * far - i)
        for far, task in enumerate(("near", "far"))
        for i in range(5)
    ]
    assert correlation(KL, "tasks", points).spearman.value > 0.4
    within = correlation(KL, "within tasks", points)
    assert within.spearman.value == pytest.approx(-1.0)
    assert within.pearson.value == pytest.approx(-1.0)


def test_arms_are_drawn_whole() -> None:
    """Ten copies of each arm's points say no more than one: the interval must not shrink."""
    points = chance_points(6)
    copies = [
        DriftPoint(p.run, p.arm, f"{p.stage}.{k}", p.task, p.drift, p.loss)
        for p in points
        for k in range(10)
    ]
    one, many = (correlation(KL, "tasks", some).pearson for some in (points, copies))
    assert many.high - many.low == pytest.approx(one.high - one.low)


def test_replicates_of_one_arm_are_drawn_instead() -> None:
    found = correlation(KL, "tasks", chance_points(1, runs=5))
    assert found.spearman.low is not None
    few = correlation(KL, "tasks", chance_points(1, runs=3))
    assert few.reason == "no interval from 3 replicates: it takes 4"
