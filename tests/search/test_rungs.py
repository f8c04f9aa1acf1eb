"""The design of a search: it fits its time, and spends it in the stated order of preference."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowtune.experiment import ArmSpec
from narrowtune.search.candidates import default_arms, in_turn
from narrowtune.search.rungs import LENGTHS, Prices, designed, least_seconds

seconds = st.floats(0.01, 1000)
PRICES = st.builds(Prices, fixed=seconds, teaching=seconds, scoring=seconds, base=seconds)
ONE = Prices(fixed=1.0, teaching=100.0, scoring=10.0, base=5.0)


@given(PRICES, st.integers(2, 30), st.floats(1, 1e6))
def test_what_is_designed_fits(prices: Prices, most: int, budget: float) -> None:
    rungs = designed(prices, most, budget)
    if rungs is None:
        assert least_seconds(prices, most) > budget
        return
    assert sum(map(prices.whole, rungs)) <= budget
    assert rungs[0].candidates <= most
    assert all(rung.candidates >= 2 for rung in rungs)
    assert rungs[-1].steps in LENGTHS
    assert rungs[-1].tests == 1.0
    for early, late in pairwise(rungs):
        assert early.candidates >= late.candidates
        assert late.steps == pytest.approx(3 * early.steps)


@given(PRICES, st.integers(2, 30))
def test_the_least_time_is_enough(prices: Prices, most: int) -> None:
    assert designed(prices, most, least_seconds(prices, most) * 1.0001) is not None


def test_with_time_for_all_every_candidate_is_taught_in_full() -> None:
    (only,) = designed(ONE, 20, 10_000.0) or ()
    assert (only.candidates, only.steps, only.tests) == (20, 1.0, 1.0)


def test_halving_comes_before_leaving_candidates_out() -> None:
    assert ONE.whole(designed(ONE, 20, 10_000.0)[0]) == 20 * 111 + 6  # type: ignore[index]
    rungs = designed(ONE, 20, 1600.0) or ()
    assert [rung.candidates for rung in rungs] == [20, 7]
    assert [rung.steps for rung in rungs] == [pytest.approx(1 / 3), 1.0]


def test_a_first_rung_too_short_to_tell_is_not_designed() -> None:
    rungs = designed(ONE, 20, 800.0, telling=0.3) or ()
    assert rungs[0].steps >= 0.3
    assert rungs[-1].steps == 1.0
    assert rungs[0].candidates < 20  # what it costs instead


def test_the_training_is_shortened_before_fewer_than_six_are_tried() -> None:
    (only,) = designed(ONE, 20, 400.0, telling=0.5) or ()
    assert (only.candidates, only.steps) == (6, 0.5)


def test_fewer_than_six_are_tried_before_a_rung_is_too_short_to_tell() -> None:
    (only,) = designed(ONE, 20, 300.0, telling=0.4) or ()
    assert (only.candidates, only.steps) == (4, 0.5)
    (only,) = designed(ONE, 20, 70.0, telling=0.4) or ()
    assert (only.candidates, only.steps) == (2, 0.125)  # nothing else fits


def test_families_take_turns_with_their_middle_cells_first() -> None:
    raw = [
        {"name": "a", "recipe": "gate-up", "sweep": {"learning_rate": [1e-5, 1e-4, 1e-3]}},
        {"name": "b", "recipe": "attention"},
        {"name": "c", "recipe": "language", "sweep": {"learning_rate": [1e-5, 1e-4]}},
    ]
    arms = [cell for arm in raw for cell in ArmSpec.model_validate(arm).cells]
    assert [arm.name for arm in in_turn(arms)] == [
        "a@learning_rate=1e-4", "b", "c@learning_rate=1e-4",
        "a@learning_rate=1e-3", "c@learning_rate=1e-5",
        "a@learning_rate=1e-5",
    ]  # fmt: skip


@pytest.mark.parametrize("stages", [1, 3])
def test_the_usual_candidates_are_arms(stages: int) -> None:
    arms = [ArmSpec.model_validate(arm) for arm in default_arms(stages)]
    assert ("replay" in [arm.name for arm in arms]) == (stages > 1)
    cells = [cell for arm in arms for cell in arm.cells]
    first = in_turn(cells)[: len(arms)]
    assert {cell.family for cell in first} == {arm.name for arm in arms}
