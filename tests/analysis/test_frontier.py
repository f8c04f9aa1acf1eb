"""The frontier against numbers worked by hand, and the laws it obeys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrowtune.analysis import NO_SAMPLES, Run, Sample, Samples
from narrowtune.analysis.curves import mean_height, non_dominated, value_at
from narrowtune.analysis.families import Family, Frontier
from narrowtune.analysis.frontier import frontier
from narrowtune.analysis.frontier_export import frontier_to_dict
from narrowtune.analysis.frontier_wording import sentences
from narrowtune.experiment import ArmSpec, Experiment, ModelSpec, StageSpec, TaskSpec
from narrowtune.record import BASE, Cost, DivergedRow, Record, Score

N = 100
Cells = Mapping[str, tuple[int, int]]
"""By arm `family@value`: how many of 100 answers are right, of the skill and of the held-out task.
At base it is 10 and 80."""


def run_of(cells: Cells, *, order: int = 1, seed: int = 0, **more: object) -> Run:
    """One stage `s`, one held-out task `h`; which answers are right is decided by a fixed shuffle.

    A cell's training takes ten seconds for each answer of the skill that is right.
    """
    rows = {(BASE, BASE): (10, 80)} | {(arm, "s"): right for arm, right in cells.items()}
    scores, answers = [], {}
    for (arm, stage), pair in rows.items():
        for (task, role), right in zip((("s", "target"), ("h", "held_out")), pair, strict=True):
            hits = [float((i * 37 + 11 * (task == "h")) % N < right) for i in range(N)]
            answers[arm, stage, task] = {
                str(i): Sample(str(i), str(hit), ("1.0",), hit) for i, hit in enumerate(hits)
            }
            scores.append(
                Score(arm=arm, stage=stage, task=task, role=role, metric="exact",
                      value=right / N, n=N, stderr=0.05, task_version="1")
            )  # fmt: skip
    arms = tuple(
        ArmSpec(name=arm, recipe="full", of=arm.partition("@")[0] if "@" in arm else None)
        for arm in cells
    )
    experiment = Experiment(
        model=ModelSpec(id="m"),
        stages=(StageSpec(name="s", train="t", test="t"),),
        held_out=(TaskSpec(name="h", test="t"),),
        arms=arms,
    )
    costs = tuple(
        Cost(arm=arm, stage="s", seconds=10.0 * right, steps=5, samples=50, tokens=1000 + right,
             supervised_tokens=9, samples_per_second=1.0, peak_bytes=1, trained_numel=5,
             total_numel=9)
        for arm, (right, _) in cells.items()
    )  # fmt: skip
    facts = {"status": "complete", "digest": "d", "scores": tuple(scores), "cost": costs}
    return Run(Record(experiment=experiment, **facts | more), Samples(answers), order, seed)


def found(runs: list[Run] | Run, **how: object) -> Frontier:
    one = frontier([runs] if isinstance(runs, Run) else runs, **{"draws": 400} | how)
    assert one is not None
    return one


def family(of: Frontier, name: str) -> Family:
    return next(one for one in of.families if one.name == name)


# Learning 20, 40, 70, 80 points; held-out change -4, -10, -30, -20: the third is dominated.
WIDE = {"wide@1": (30, 76), "wide@2": (50, 70), "wide@3": (80, 50), "wide@4": (90, 60)}
NARROW = {"narrow@1": (50, 80), "narrow@2": (74, 78)}  # learning 40 and 64; 0 and -2


def test_which_cells_are_on_the_frontier() -> None:
    wide = family(found(run_of(WIDE)), "wide")
    assert [point.on_frontier for point in wide.points] == [True, True, False, True]
    assert wide.points[1].learning.value == pytest.approx(0.4)
    assert wide.points[1].kept.value == pytest.approx(-0.1)


def test_held_out_change_at_matched_learning() -> None:
    """The best learned 80 points. 80 % is 64, between 40 and 80: -10 - 10 x 24 / 40 = -16."""
    both = found(run_of(WIDE | NARROW), levels=(0.8, 0.9, 0.5))
    assert both.levels == (0.5, 0.8, 0.9) and both.best.arm == "wide@4"
    wide, narrow = (family(both, name).kept_at for name in ("wide", "narrow"))
    assert [one.value.value for one in wide if one.value] == pytest.approx([-0.1, -0.16, -0.18])
    assert narrow[0].value is not None and narrow[0].value.value == pytest.approx(0.0)
    assert narrow[1].value is not None and narrow[1].value.value == pytest.approx(-0.02)
    assert narrow[2].value is None  # 72 points: not reached
    assert not any(one.at_least for one in (*wide, *narrow))
    gaps = {(gap.level, gap.quantity): gap.difference for gap in both.gaps}
    assert gaps[0.8, "kept"].value == pytest.approx(-0.14)
    assert (0.9, "kept") not in gaps


def test_before_the_first_cell_its_value_is_a_bound() -> None:
    """A single arm at 64 points: at 40 it kept at least what it kept there."""
    both = found(run_of(WIDE | {"lone": (74, 78)}), levels=(0.5,))
    (lone,) = family(both, "lone").kept_at
    assert lone.value is not None and lone.value.value == pytest.approx(-0.02) and lone.at_least
    assert "lone kept clearly more than wide" in sentences(both)[0]
    worse = found(run_of(WIDE | {"lone": (74, 20)}), levels=(0.5,))
    assert sentences(worse)[0].endswith(
        "no family clearly kept more than another; "
        "lone cannot be shown to have kept less, for want of a cell on the near side."
    )


def test_the_area() -> None:
    """Narrow keeps 80 of 80 up to 40 points, then less down to 78 of 80 at 64, and none to 80."""
    both = found(run_of(WIDE | NARROW))
    narrow, wide = (family(both, name).area for name in ("narrow", "wide"))
    by_hand = (40 * 1 + 24 * (1 + 78 / 80) / 2) / 80
    assert narrow is not None and narrow.value == pytest.approx(by_hand)
    by_hand = (20 * 76 / 80 + 20 * (76 + 70) / 160 + 40 * (70 + 60) / 160) / 80
    assert wide is not None and wide.value == pytest.approx(by_hand)


def test_the_cheapest_cell_that_reaches_a_level() -> None:
    both = found(run_of(WIDE | NARROW), levels=(0.8, 0.9))
    prices = {name: family(both, name).prices for name in ("wide", "narrow")}
    assert [(one.arm, one.seconds, one.tokens) for one in prices["wide"]] == [
        ("wide@3", 800.0, 1080.0), ("wide@4", 900.0, 1090.0),
    ]  # fmt: skip
    assert [one.arm for one in prices["narrow"]] == ["narrow@2"]  # 64 points are 80 % of 80
    often = prices["narrow"][0].reached_in
    assert often is not None and 0.2 < often < 0.8


def test_the_best_in_each_resample_sets_the_level() -> None:
    """What learned most always reaches the level; what just does, in half of them."""
    both = found(run_of(WIDE | NARROW), levels=(0.8,))
    wide, narrow = (family(both, name).kept_at[0].value for name in ("wide", "narrow"))
    assert wide is not None and wide.low is not None and wide.low < -0.16 < (wide.high or 0)
    assert narrow is not None and narrow.low is None and narrow.high is not None
    (gap,) = [one.difference for one in both.gaps if one.quantity == "kept"]
    assert gap.low is None and gap.high is None and not gap.clear


def test_sentences_claim_what_is_clear_alone() -> None:
    both = found(run_of(WIDE | NARROW), levels=(0.5, 0.8, 0.95))
    clear, unclear, alone = sentences(both)
    assert clear.startswith("At 50 % of the best learning (+40.0 points), narrow kept clearly more")
    assert "than wide (by +10.0 points [" in clear
    assert "no family clearly kept more than another" in unclear
    assert alone.endswith("wide stands alone: no other family gets there.")


def test_no_answers_no_intervals_no_claims() -> None:
    run = run_of(WIDE | NARROW)
    bare = found(Run(run.record, NO_SAMPLES))
    assert bare.draws == 0
    value = family(bare, "wide").kept_at[0].value
    assert value is not None and value.low is None and value.high is None
    assert value.value == pytest.approx(-0.16)
    assert sentences(bare) == [
        "Without the models' answers there are no intervals, so nothing is claimed."
    ]


def test_diverged_and_unfinished_arms_are_no_points() -> None:
    row = DivergedRow(arm="wide@5", stage="s", step=2, reason="loss nan")
    spec = ArmSpec(name="wide@5", of="wide", recipe="full")
    run = run_of(WIDE, diverged=(row,))
    experiment = run.record.experiment.model_copy(
        update={"arms": (*run.record.experiment.arms, spec, ArmSpec(name="late", recipe="full"))}
    )
    both = found(Run(run.record.model_copy(update={"experiment": experiment}), run.samples))
    assert both.left_out == {"wide@5": "diverged", "late": "not scored to the end"}
    assert len(family(both, "wide").points) == 4 and len(both.families) == 1


def test_over_replicates_runs_are_drawn_too() -> None:
    """Two seeds that went very differently: a wider interval than that of one."""
    one = found(run_of(WIDE), levels=(0.9,))
    other = {arm: (right, kept - 30) for arm, (right, kept) in WIDE.items()}
    two = found([run_of(WIDE), run_of(other, seed=1)], levels=(0.9,))
    alone, pooled = (family(of, "wide").kept_at[0].value for of in (one, two))
    assert alone is not None and pooled is not None and two.runs == 2
    assert pooled.value == pytest.approx(alone.value - 0.15)
    widths = [value.high - value.low for value in (alone, pooled) if value.high and value.low]
    assert widths[1] > 1.5 * widths[0]
    point = family(two, "wide").points[0]
    assert point.kept_spread == pytest.approx(0.3 / 2**0.5) and point.learning_spread == 0.0
    assert point.seconds == 300.0


def test_learning_at_matched_drift() -> None:
    """The least drift that learned 64 points is 0.4 nats; wide lies between its cells there."""
    nats = {"wide@1": 0.1, "wide@2": 0.2, "wide@4": 1.0, "narrow@1": 0.1, "narrow@2": 0.4}
    cells = {arm: right for arm, right in (WIDE | NARROW).items() if arm in nats}
    readings = tuple(
        {"arm": arm, "stage": "s", "probe": "kl", "task": "h", "at": "all", "part": "", "value": v}
        for arm, v in nats.items()
    )
    both = found(run_of(cells, readings=readings))
    wide, narrow = (family(both, name).learned_at for name in ("wide", "narrow"))
    assert [one.level for one in wide] == pytest.approx([0.1, 0.2, 0.4])
    got = [one.value.value for one in wide if one.value]
    assert got == pytest.approx([0.2, 0.4, 0.4 + 0.4 * 0.2 / 0.8])
    got = [one.value.value for one in narrow if one.value]
    assert got == pytest.approx([0.4, 0.4 + 0.24 / 3, 0.64])
    assert sentences(both)[-1].startswith("With a drift of 0.4 nats per token, narrow learned")


def test_it_is_json() -> None:
    values = json.loads(json.dumps(frontier_to_dict(found(run_of(WIDE | NARROW))), allow_nan=False))
    assert [one["family"] for one in values["families"]] == ["wide", "narrow"]
    assert values["families"][0]["points"][2]["on_frontier"] is False


def test_nothing_held_out_nothing_to_compare() -> None:
    run = run_of(WIDE)
    experiment = run.record.experiment.model_copy(update={"held_out": ()})
    assert frontier([Run(run.record.model_copy(update={"experiment": experiment}))]) is None
    assert frontier([]) is None


LAW = settings(deadline=None, max_examples=60)
POINTS = st.lists(
    st.tuples(st.integers(-5, 20).map(float), st.integers(-20, 0).map(float)),
    min_size=1, max_size=6,
)  # fmt: skip


def sides(points: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.array(points).T
    return x[None], y[None]


@LAW
@given(POINTS)
def test_frontier_points_are_not_dominated_and_the_others_are(
    points: list[tuple[float, float]],
) -> None:
    on = non_dominated(*sides(points))[0]
    for one, is_on in zip(points, on, strict=True):
        beaten = any(o[0] >= one[0] and o[1] >= one[1] and o != one for o in points)
        assert is_on == (not beaten)


@LAW
@given(POINTS, st.integers(0, 5), st.floats(0, 3), st.floats(0, 3), st.floats(-5, 20))
def test_a_dominated_point_changes_nothing(
    points: list[tuple[float, float]], place: int, less_x: float, less_y: float, at: float
) -> None:
    above = points[place % len(points)]
    more = [*points, (above[0] - less_x, above[1] - less_y)]
    for of in (value_at, lambda x, y, at: mean_height(x, 20 + y, np.maximum(at, 1.0))):
        before, after = (of(*sides(p), np.array([at])) for p in (points, more))
        np.testing.assert_allclose(before, after, atol=1e-9)


@LAW
@given(POINTS, st.randoms(use_true_random=False), st.floats(-5, 20))
def test_the_order_of_cells_is_irrelevant(
    points: list[tuple[float, float]], chance: object, at: float
) -> None:
    mixed = points.copy()
    chance.shuffle(mixed)  # type: ignore[attr-defined]
    places = np.array([at])
    np.testing.assert_allclose(value_at(*sides(points), places), value_at(*sides(mixed), places))


@LAW
@given(POINTS)
def test_the_curve_goes_through_its_points_and_never_rises(
    points: list[tuple[float, float]],
) -> None:
    x, y = sides(points)
    on = non_dominated(x, y)[0]
    for one, height in zip(x[0][on], y[0][on], strict=True):
        assert value_at(x, y, np.array([one])) == pytest.approx(height)
    many = np.linspace(-5, 20, 51)
    heights = [value_at(x, y, np.array([at]))[0] for at in many]
    reached = [height for height in heights if not np.isnan(height)]
    assert all(b <= a + 1e-9 for a, b in pairwise(reached))
    assert np.isnan(heights[-1]) == (x.max() < 20)


@LAW
@given(POINTS, st.integers(1, 20))
def test_the_area_is_the_sum_of_thin_slices(points: list[tuple[float, float]], end: int) -> None:
    x, y = sides(points)
    y = y + 20  # heights are shares, none below 0
    middles = (np.arange(2000) + 0.5) * end / 2000
    many = [np.repeat(side, len(middles), axis=0) for side in (x, y)]
    slices = np.nan_to_num(value_at(*many, middles))
    area = mean_height(x, y, np.array([float(end)]))[0]
    assert area == pytest.approx(slices.mean(), abs=0.02)
