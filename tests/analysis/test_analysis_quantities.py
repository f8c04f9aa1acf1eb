"""Every quantity against numbers worked out by hand."""

from __future__ import annotations

import pytest

from narrowtune import analysis
from narrowtune.analysis import accuracy_matrix


def test_learning_is_each_target_right_after_its_stage(by_hand) -> None:
    assert analysis.learning(by_hand, "wide").value == pytest.approx((0.8 + 0.6) / 2)
    by_stage = analysis.learning_by_stage(by_hand, "narrow")
    assert {s: round(e.value, 6) for s, e in by_stage.items()} == {"s1": 0.75, "s2": 0.55}


def test_forgetting_is_final_less_right_after_without_the_last_stage(by_hand) -> None:
    assert analysis.forgetting(by_hand, "wide").value == pytest.approx(0.5 - 0.9)
    assert analysis.overall(by_hand, "wide").value == pytest.approx((0.4 + 0.6) / 2)


def test_held_out_change_as_mean_sum_final_and_worst(by_hand) -> None:
    first = analysis.held_out_change(by_hand, "wide", "s1")
    assert first.mean.value == pytest.approx((-0.5 - 0.2) / 2)
    assert first.sum.value == pytest.approx(-0.7)
    assert first.sum.low == pytest.approx(2 * first.mean.low)
    assert analysis.held_out_final(by_hand, "wide").mean.value == pytest.approx(-0.15)
    assert analysis.held_out_worst(by_hand, "wide").stage == "s1"
    assert analysis.held_out_average(by_hand, "wide", "base").value == pytest.approx(0.7)


def test_matrix_has_base_first_and_changes_from_it(by_hand) -> None:
    matrix = accuracy_matrix(by_hand, "wide")
    assert matrix.stages == ("base", "s1", "s2")
    assert matrix.tasks == ("s1", "s2", "h1", "h2")
    assert matrix.cells["base", "h1"].change is None
    assert matrix.cells["s2", "h1"].change.value == pytest.approx(-0.2)


def test_a_metric_where_low_is_good_is_turned_around(by_hand) -> None:
    turned = tuple(
        score.model_copy(update={"higher_is_better": score.task != "h1"})
        for score in by_hand.scores
    )
    record = by_hand.model_copy(update={"scores": turned})
    change = accuracy_matrix(record, "wide").cells["s1", "h1"].change
    assert change.value == pytest.approx(+0.5)
    assert change.verdict == "better"


def test_nothing_measured_is_none_and_not_zero(make_record) -> None:
    record = make_record({("wide", "s1"): {"s1": 0.9}})
    assert analysis.learning(record, "wide") is None
    assert analysis.forgetting(record, "wide") is None
    assert analysis.held_out_final(record, "wide") is None
    assert analysis.held_out_worst(record, "wide") is None
    assert analysis.held_out_average(record, "wide", "base") is None


def test_a_stage_scored_on_some_held_out_tasks_has_no_mean(make_record) -> None:
    record = make_record(
        {("base", "base"): {"h1": 0.5, "h2": 0.5}, ("wide", "s1"): {"h1": 0.5}}
    )  # fmt: skip
    assert analysis.held_out_change(record, "wide", "s1") is None


def test_summary_sums_time_and_takes_the_largest_memory(by_hand) -> None:
    row = analysis.summarise(by_hand)[0]
    assert (row.arm, row.finished, row.stages_done) == ("wide", True, ("s1", "s2"))
    assert (row.cost.seconds, row.cost.peak_bytes, row.cost.trained_numel) == (4.0, 1000, 1000)
    assert row.ledger is None


def test_flips_name_the_samples_that_moved(make_record, make_samples) -> None:
    record = make_record(
        {("base", "base"): {"h1": 0.5}, ("wide", "s2"): {"h1": 0.5}}, n=4, held_out=["h1"]
    )
    samples = make_samples(
        {("base", "base", "h1"): [1, 1, 0, 0], ("wide", "s2", "h1"): [1, 0, 1, 0]}
    )
    found = analysis.flips(record, "wide", "s2", "h1", samples)
    assert [flip.before.id for flip in found.lost] == ["1"]
    assert [flip.before.id for flip in found.gained] == ["2"]
    assert not found.reworded
