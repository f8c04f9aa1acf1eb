"""Intervals: formulas against their sources, and the laws they have to keep."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowtune import analysis
from narrowtune.analysis.estimate import (
    Z95,
    Contrast,
    Moments,
    average_change,
    average_score,
)
from narrowtune.record import Score

zero_or_one = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=40)


def paired(differences: list[float]) -> Contrast:
    moments = Moments.of(differences)
    return Contrast(moments.mean, (moments,))


def test_one_paired_task_is_bonett_and_prices_interval() -> None:
    gained, lost, same = 12, 5, 33
    n = gained + lost + same
    p, q = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    reach = Z95 * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    found = average_change([paired([1.0] * gained + [-1.0] * lost + [0.0] * same)])
    assert (found.low, found.high) == pytest.approx((p - q - reach, p - q + reach))
    assert found.value == pytest.approx((gained - lost) / n)


def test_one_unpaired_task_is_agresti_and_caffos_interval() -> None:
    def moments(right: int, n: int) -> Moments:
        return Moments.of([1.0] * right + [0.0] * (n - right))

    p, q = (41 + 1) / 52, (30 + 1) / 62
    reach = Z95 * math.sqrt(p * (1 - p) / 52 + q * (1 - q) / 62)
    found = average_change([Contrast(41 / 50 - 0.5, (moments(41, 50), moments(30, 60)))])
    assert (found.low, found.high) == pytest.approx((p - q - reach, p - q + reach))


def test_one_score_is_agresti_and_coulls_interval() -> None:
    score = Score(arm="a", stage="s", task="t", role="target", metric="exact", value=0.9, n=30,
                  stderr=math.sqrt(0.9 * 0.1 / 29), task_version="1")  # fmt: skip
    p = (27 + 2) / 34
    reach = Z95 * math.sqrt(p * (1 - p) / 34)
    found = average_score([score])
    assert found.low == pytest.approx(p - reach)
    assert found.high == pytest.approx(min(p + reach, 1.0))


@given(st.lists(zero_or_one, min_size=1, max_size=5))
def test_the_interval_holds_its_value_and_stays_in_range(tasks: list[list[float]]) -> None:
    found = average_change([paired(task) for task in tasks])
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert found.tasks == len(tasks)
    assert found.n == sum(map(len, tasks))


@given(zero_or_one, zero_or_one)
def test_swapping_the_models_turns_the_interval_around(one: list[float], two: list[float]) -> None:
    size = min(len(one), len(two))
    there = average_change([paired([b - a for a, b in zip(one, two, strict=False)])])
    back = average_change([paired([a - b for a, b in zip(one, two, strict=False)])])
    assert there.n == size
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


def test_no_change_at_all_is_not_called_exact() -> None:
    found = average_change([paired([0.0] * 100)])
    assert found.low < 0 < found.high
    assert found.verdict == "unclear"


def test_a_few_samples_never_make_a_loss() -> None:
    assert average_change([paired([-1.0] * 3)]).verdict == "unclear"
    assert average_change([paired([-1.0] * 20)]).verdict == "worse"


def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    draw = random.Random(0)
    chances = {1.0: 0.06, -1.0: 0.12, 0.0: 0.82}
    held = 0
    for _ in range(800):
        tasks = [paired(draw.choices(list(chances), list(chances.values()), k=80)) for _ in "abc"]
        found = average_change(tasks)
        held += found.low <= -0.06 <= found.high
    assert 0.925 <= held / 800 <= 0.985


def test_pairing_narrows_and_is_told(make_record, make_samples) -> None:
    base, tuned = [1.0] * 60 + [0.0] * 40, [1.0] * 52 + [0.0] * 48
    record = make_record(
        {("base", "base"): {"h1": 0.6}, ("wide", "s2"): {"h1": 0.52}}, held_out=["h1"]
    )
    samples = make_samples({("base", "base", "h1"): base, ("wide", "s2", "h1"): tuned})
    loose = analysis.held_out_final(record, "wide").mean
    tight = analysis.held_out_final(record, "wide", samples).mean
    assert (loose.pairing, loose.verdict) == ("unpaired", "unclear")
    assert (tight.pairing, tight.verdict) == ("paired", "worse")
    assert tight.value == loose.value


def test_other_ids_or_stale_predictions_are_not_paired(make_record, make_samples) -> None:
    record = make_record(
        {("base", "base"): {"h1": 0.5}, ("wide", "s2"): {"h1": 0.5}}, n=4, held_out=["h1"]
    )
    fewer = {("base", "base", "h1"): [1.0, 0.0, 1.0, 0.0], ("wide", "s2", "h1"): [1.0, 0.0]}
    stale = {("base", "base", "h1"): [1.0, 0.0, 1.0, 0.0], ("wide", "s2", "h1"): [1.0] * 4}
    for rows in (fewer, stale):
        found = analysis.held_out_final(record, "wide", make_samples(rows)).mean
        assert found.pairing == "unpaired"


def test_some_of_each_is_told_as_mixed(make_record, make_samples) -> None:
    values = {"h1": 0.5, "h2": 0.5}
    record = make_record({("base", "base"): values, ("wide", "s2"): values}, n=4)
    half = [1.0, 0.0, 1.0, 0.0]
    samples = make_samples({("base", "base", "h1"): half, ("wide", "s2", "h1"): half})
    assert analysis.held_out_final(record, "wide", samples).mean.pairing == "mixed"
