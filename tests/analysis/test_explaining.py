"""A loss taken apart, and yes-or-no answers by signal detection: against numbers made by hand."""

from __future__ import annotations

import random
from dataclasses import replace
from statistics import NormalDist

import pytest

from narrowtune.analysis.detection import detection
from narrowtune.analysis.explaining import Quartet, Rows, explained
from narrowtune.analysis.samples import Sample


def rows(scores: str, prefix: str = "s") -> Rows:
    return {
        f"{prefix}{i}": Sample(f"{prefix}{i}", "x", ("y",), float(one))
        for i, one in enumerate(scores)
    }


def test_of_five_lost_three_come_back() -> None:
    quartet = Quartet(
        "charts",
        base=rows("1111111100"),
        base_corrected=rows("1111111110"),
        tuned=[rows("1110000000")],
        tuned_corrected=[rows("1111110100")],
    )
    one = explained("offsets", [[quartet]])
    assert one is not None
    assert one.lost.value == pytest.approx(0.5)
    assert one.not_recovered.value == pytest.approx(0.9 - 0.7)
    assert one.recovered.value == pytest.approx(0.3)
    assert one.base_change.value == pytest.approx(0.1)
    assert one.share == pytest.approx(0.6)
    assert not one.harms_base


def test_a_loss_within_the_noise_has_no_share() -> None:
    quartet = Quartet("t", rows("1100"), rows("1100"), [rows("1000")], [rows("1100")])
    one = explained("offsets", [[quartet]])
    assert one is not None
    assert one.share is None


def test_a_correction_that_breaks_the_base_is_told() -> None:
    good, bad = rows("1" * 30), rows("0" * 30)
    one = explained("examples", [[Quartet("t", good, bad, [bad], [bad])]])
    assert one is not None
    assert one.harms_base
    assert one.recovered.value == pytest.approx(1.0), "which proves nothing"
    assert one.not_recovered.value == 0


def test_stages_are_averaged_sample_by_sample() -> None:
    base = rows("1111")
    quartet = Quartet("t", base, base, [rows("0000"), rows("1100")], [rows("1100"), rows("1111")])
    one = explained("offsets", [[quartet]])
    assert one is not None
    assert one.lost.value == pytest.approx(0.75)
    assert one.not_recovered.value == pytest.approx(0.25)
    assert one.lost.n == 4, "samples, not samples times stages"


def test_tasks_and_runs_weigh_alike() -> None:
    def quartet(task: str, tuned: str, corrected: str) -> Quartet:
        whole = rows("1" * len(tuned), task)
        return Quartet(task, whole, whole, [rows(tuned, task)], [rows(corrected, task)])

    runs = [
        [quartet("a", "0000", "1111"), quartet("b", "00", "00")],
        [quartet("a", "1111", "1111"), quartet("b", "00", "11")],
    ]
    one = explained("offsets", runs, [1, 2])
    assert one is not None
    assert one.lost.value == pytest.approx((1 + 1 + 0 + 1) / 4)
    assert one.recovered.value == pytest.approx((1 + 0 + 0 + 1) / 4)
    assert one.lost.runs == 2
    assert explained("offsets", []) is None


def guessing(given: Rows, *values: float) -> Rows:
    """The rows with what each puts into the score of shuffled answers."""
    pairs = zip(given.items(), values * len(given), strict=False)
    return {name: replace(row, guess=value) for (name, row), value in pairs}


def test_above_guessing_every_score_is_lowered_by_its_own() -> None:
    """0.8, 0.3, 0.9 and 0.7 as scored; half of what the tuned model gets corrected is luck."""
    quartet = Quartet(
        "charts",
        base=guessing(rows("1111111100"), 0.2),
        base_corrected=guessing(rows("1111111110"), 0.1, 0.3),
        tuned=[guessing(rows("1110000000"), 0.0)],
        tuned_corrected=[guessing(rows("1111110100"), 0.35)],
    )
    one = explained("offsets", [[quartet]])
    assert one is not None and one.above is not None and one.guesses is not None
    assert one.lost.value == pytest.approx(0.5)
    assert one.above.lost.value == pytest.approx((0.8 - 0.2) - 0.3)
    assert one.above.not_recovered.value == pytest.approx((0.9 - 0.2) - (0.7 - 0.35))
    assert one.above.recovered.value == pytest.approx(0.3 - 0.35)
    assert one.guesses.base_corrected == pytest.approx(0.2)
    assert one.guesses.tuned == 0
    unknown = replace(quartet, tuned=[rows("1110000000")])
    old = explained("offsets", [[unknown]])
    assert old is not None and old.above is None and old.guesses is None


def test_the_share_has_an_interval_where_something_was_clearly_lost() -> None:
    draw = random.Random(3)
    base = rows("1" * 200)
    lost = "".join(draw.choice("01") for _ in range(200))
    half = "".join("1" if one == "1" or draw.random() < 0.5 else "0" for one in lost)
    one = explained("offsets", [[Quartet("t", base, base, [rows(lost)], [rows(half)])]])
    assert one is not None and one.share is not None and one.share_interval is not None
    low, high = one.share_interval
    wide = 1.96 * (one.share * (1 - one.share) / (200 * one.lost.value)) ** 0.5
    assert (low, high) == pytest.approx((one.share - wide, one.share + wide), abs=0.03)
    everything = explained("offsets", [[Quartet("t", base, base, [rows(lost)], [base])]])
    assert everything is not None and everything.share_interval == pytest.approx((1, 1))
    nothing = explained("offsets", [[Quartet("t", base, base, [base], [base])]])
    assert nothing is not None and nothing.share_interval is None


def answers(pairs: list[tuple[str, str]]) -> Rows:
    return {
        str(i): Sample(str(i), said, (right,), float(said == right), said=said)
        for i, (right, said) in enumerate(pairs)
    }


def test_d_prime_and_criterion_by_hand() -> None:
    """8 of 10 yeses found, 3 false alarms in 10: with half an answer added, 8.5/11 and 3.5/11."""
    pairs = [("yes", "yes")] * 8 + [("yes", "no")] * 2 + [("no", "yes")] * 3 + [("no", "no")] * 7
    found = detection([answers(pairs)])
    assert found is not None
    z = NormalDist().inv_cdf
    hit, alarm = z(8.5 / 11), z(3.5 / 11)
    assert found.discrimination.value == pytest.approx(hit - alarm)
    assert found.criterion.value == pytest.approx(-(hit + alarm) / 2)
    assert found.discrimination.low < hit - alarm < found.discrimination.high
    assert found.said_yes == pytest.approx(0.55)
    assert found.neither == 0


def test_a_shifted_criterion_leaves_d_prime() -> None:
    """The same ability, once leaning to yes and once to no."""
    lean_yes = (
        [("yes", "yes")] * 95 + [("yes", "no")] * 5 + [("no", "yes")] * 40 + [("no", "no")] * 60
    )
    lean_no = (
        [("yes", "yes")] * 60 + [("yes", "no")] * 40 + [("no", "yes")] * 5 + [("no", "no")] * 95
    )
    one, other = detection([answers(lean_yes)]), detection([answers(lean_no)])
    assert one is not None and other is not None
    assert one.discrimination.value == pytest.approx(other.discrimination.value)
    assert one.criterion.value == pytest.approx(-other.criterion.value)
    assert one.criterion.high < 0 < other.criterion.low


def test_runs_that_lean_both_ways_are_not_taken_for_unable() -> None:
    """d' of each run by itself, averaged: pooled shares would halve it."""
    right = [("yes", "yes")] * 95 + [("no", "no")] * 60
    lean_yes = [*right, *[("yes", "no")] * 5, *[("no", "yes")] * 40]
    lean_no = [("no" if r == "yes" else "yes", "no" if s == "yes" else "yes") for r, s in lean_yes]
    # The same questions in both runs: sorted by their right answers.
    one, other = (answers(sorted(pairs)) for pairs in (lean_yes, lean_no))
    alone = detection([one])
    both = detection([one, other])
    assert alone is not None and both is not None
    assert both.discrimination.value == pytest.approx(alone.discrimination.value)
    assert both.criterion.value == pytest.approx(0, abs=1e-9)


def test_answers_that_are_neither_are_counted_apart() -> None:
    pairs = [("yes", "neither"), ("no", "neither"), ("yes", "yes"), ("no", "no")]
    found = detection([answers(pairs)])
    assert found is not None
    assert found.neither == 0.5
    unread = {name: replace(one, said="") for name, one in answers(pairs).items()}
    assert detection([unread]) is None, "what the metric read in them was not recorded"
    assert detection([answers([("yes", "yes")])]) is None
    assert detection([]) is None
