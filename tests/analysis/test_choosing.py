"""Which candidate is recommended, on records whose numbers are plain to see."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from narrowtune.analysis import NO_SAMPLES
from narrowtune.analysis.choosing import choose, ranked, standings
from narrowtune.analysis.recommending import RungResult, recommendation
from narrowtune.analysis.recommending_wording import unknown, verdict
from narrowtune.record import DivergedRow, LossRow, Planned, Record, RungRow, SearchRecord

Make = Callable[..., Record]
BASE_SCORES = {"s1": 0.1, "s2": 0.1, "h1": 0.8, "h2": 0.8}


@pytest.fixture
def record(make_record: Make) -> Callable[..., Record]:
    """A record from {arm: (score of both skills, of both held-out tasks)}."""

    def made(arms: Mapping[str, tuple[float, float]], **more: object) -> Record:
        values = {("base", "base"): BASE_SCORES}
        for arm, (skill, held) in arms.items():
            for stage in ("s1", "s2"):
                values[arm, stage] = {"s1": skill, "s2": skill, "h1": held, "h2": held}
        return make_record(values, n=1000, **more)

    return made


def losses(arm: str, *values: float) -> list[LossRow]:
    return [
        LossRow(arm=arm, stage=stage, step=n, loss=loss, learning_rate=1e-4, grad_norm=1.0)
        for stage in ("s1", "s2")
        for n, loss in enumerate(values, start=1)
    ]


def search_over(*rungs: RungRow, candidates: tuple[str, ...], **more: object) -> SearchRecord:
    facts: dict[str, object] = {
        "digest": "d", "seconds": 600.0, "allowed_loss": 0.05, "spent": 60.0, "rungs": rungs,
        "planned": tuple(Planned(candidates=2, steps=row.steps, tests=row.tests) for row in rungs),
        "candidates": candidates,
    }  # fmt: skip
    return SearchRecord.model_validate(facts | more)


def test_most_learned_within_the_loss_wins(record: Callable[..., Record]) -> None:
    found = record({"bold": (0.9, 0.5), "fair": (0.7, 0.78), "timid": (0.3, 0.8)})
    choice = choose(found, NO_SAMPLES, 0.05)
    assert choice is not None
    assert (choice.best.arm, choice.within, choice.rivals) == ("fair", True, ())
    assert choice.best.learning.value == pytest.approx(0.6)
    assert choice.best.kept.value == pytest.approx(-0.02)


def test_who_loses_least_is_named_where_all_lose_too_much(record: Callable[..., Record]) -> None:
    found = record({"bold": (0.9, 0.5), "fair": (0.7, 0.7)})
    choice = choose(found, NO_SAMPLES, 0.05)
    assert choice is not None
    assert (choice.best.arm, choice.within) == ("fair", False)
    row = RungRow(name="rung-1", arms=("bold", "fair"), steps=1.0, tests=1.0)
    told = recommendation(
        search_over(row, candidates=("bold", "fair")), [RungResult(row, found, NO_SAMPLES)]
    )
    assert verdict(told).startswith(
        "Nothing is recommended: all candidates clearly lose more than allowed. fair loses least"
    )
    assert told.candidates[0].fate == "loses least"


def test_going_on_puts_clear_losers_last_and_takes_excess_off(
    record: Callable[..., Record],
) -> None:
    found = record(
        {"lost": (0.95, 0.5), "near": (0.6, 0.74), "fair": (0.58, 0.79), "worse": (0.9, 0.3)}
    )
    names = [one.arm for one in ranked(standings(found), 0.05)]
    assert names == ["near", "fair", "lost", "worse"]  # near: 0.5 less 0.01 of excess
    names = [one.arm for one in ranked(standings(found), 0.03)]
    assert names == ["fair", "near", "lost", "worse"]


def test_the_training_loss_decides_where_no_test_tells(record: Callable[..., Record]) -> None:
    rows = [*losses("slow", 3.0, 2.9, 2.8, 2.7), *losses("quick", 3.0, 2.0, 1.0, 0.5)]
    found = record({"slow": (0.1, 0.8), "quick": (0.1, 0.8)}, losses=tuple(rows))
    best, other = ranked(standings(found), 0.05)
    assert (best.arm, best.loss, other.loss) == ("quick", 0.5, 2.7)


def test_what_became_of_everyone_and_what_is_not_known(record: Callable[..., Record]) -> None:
    first = RungRow(name="rung-1", arms=("a", "b", "c", "d"), steps=0.25, tests=0.5)
    last = RungRow(name="rung-2", arms=("a", "b"), steps=0.75, tests=1.0)
    early = record(
        {"a": (0.5, 0.79), "b": (0.4, 0.79), "c": (0.2, 0.79), "d": (0.1, 0.8)},
        diverged=(DivergedRow(arm="d", stage="s1", step=2, reason="loss nan"),),
    )
    late = record({"a": (0.7, 0.745), "b": (0.69, 0.79)})
    search = search_over(
        first, last, candidates=("a", "b", "c", "d", "e"), left_out={"f": "takes 99 GiB"}
    )
    told = recommendation(
        search, [RungResult(first, early, NO_SAMPLES), RungResult(last, late, NO_SAMPLES)]
    )
    fates = {one.name: (one.fate, one.why) for one in told.candidates}
    assert fates == {
        "a": ("last rung", ""), "b": ("recommended", ""), "c": ("dropped", ""),
        "d": ("given up", "loss nan"), "e": ("not tried", "no time"),
        "f": ("not tried", "takes 99 GiB"),
    }  # fmt: skip
    gaps = " ".join(unknown(told))
    assert "there was time for 75% of its steps" in gaps
    assert "the best of 2 by these very scores" in gaps
    assert "Whether c would have come back: it was dropped" in gaps
    assert "Anything about e: there was no time to try" in gaps
    assert "another seed" in gaps
    assert "would have ended" not in gaps


def test_a_rival_within_the_noise_is_named(record: Callable[..., Record]) -> None:
    row = RungRow(name="rung-1", arms=("a", "b", "c"), steps=1.0, tests=1.0)
    found = record({"a": (0.70, 0.8), "b": (0.69, 0.8), "c": (0.3, 0.8)})
    told = recommendation(
        search_over(row, candidates=("a", "b", "c")), [RungResult(row, found, NO_SAMPLES)]
    )
    (rivals,) = [gap for gap in unknown(told) if gap.startswith("Whether it learns more than")]
    assert "than b (" in rivals
    assert "c (" not in rivals


def test_a_candidate_cut_short_keeps_how_it_stood_before(record: Callable[..., Record]) -> None:
    first = RungRow(name="rung-1", arms=("a", "b"), steps=0.5, tests=1.0)
    last = RungRow(name="rung-2", arms=("a", "b"), steps=1.0, tests=1.0)
    early, late = record({"a": (0.5, 0.8), "b": (0.4, 0.8)}), record({"a": (0.6, 0.8)})
    told = recommendation(
        search_over(first, last, candidates=("a", "b")),
        [RungResult(first, early, NO_SAMPLES), RungResult(last, late, NO_SAMPLES)],
    )
    b = next(one for one in told.candidates if one.name == "b")
    assert (b.fate, b.standing and b.standing.arm) == ("not finished", "b")
    assert "How b would have ended: the time ran out." in unknown(told)


def test_rungs_of_one_length_are_judged_together(record: Callable[..., Record]) -> None:
    first = RungRow(name="rung-1", arms=("a",), steps=1.0, tests=1.0)
    more = RungRow(name="rung-2", arms=("b",), steps=1.0, tests=1.0)
    told = recommendation(
        search_over(first, more, candidates=("a", "b")),
        [
            RungResult(first, record({"a": (0.9, 0.8)}), NO_SAMPLES),
            RungResult(more, record({"b": (0.5, 0.8)}), NO_SAMPLES),
        ],
    )
    assert told.choice is not None
    assert told.choice.best.arm == "a"


def test_nothing_scored_nothing_recommended(record: Callable[..., Record]) -> None:
    told = recommendation(search_over(candidates=("a",)), [])
    assert verdict(told).startswith("Nothing is recommended")
    assert unknown(told) == []


def test_nothing_learned_nothing_recommended(record: Callable[..., Record]) -> None:
    row = RungRow(name="rung-1", arms=("a", "b"), steps=1.0, tests=1.0)
    found = record({"a": (0.1, 0.8), "b": (0.09, 0.8)})
    told = recommendation(
        search_over(row, candidates=("a", "b")), [RungResult(row, found, NO_SAMPLES)]
    )
    assert "no candidate within the allowed loss clearly learned" in verdict(told)
    assert [one.fate for one in told.candidates] == ["comes first", "last rung"]


def test_one_that_was_given_up_later_is_not_recommended(record: Callable[..., Record]) -> None:
    first = RungRow(name="rung-1", arms=("a", "b", "c"), steps=0.5, tests=1.0)
    last = RungRow(name="rung-2", arms=("a", "b"), steps=1.0, tests=1.0)
    early = record({"a": (0.9, 0.8), "b": (0.8, 0.8), "c": (0.4, 0.8)})
    gone = tuple(DivergedRow(arm=arm, stage="s1", step=2, reason="loss nan") for arm in "ab")
    late = early.model_copy(update={"scores": early.scores[:4], "cost": (), "diverged": gone})
    told = recommendation(
        search_over(first, last, candidates=("a", "b", "c")),
        [RungResult(first, early, NO_SAMPLES), RungResult(last, late, NO_SAMPLES)],
    )
    assert told.choice is not None
    assert told.choice.best.arm == "c"
    assert {one.name: one.fate for one in told.candidates} == {
        "a": "given up", "b": "given up", "c": "recommended"
    }  # fmt: skip


def test_a_rung_with_one_of_several_scored_decides_nothing(record: Callable[..., Record]) -> None:
    first = RungRow(name="rung-1", arms=("a", "b"), steps=0.5, tests=1.0)
    last = RungRow(name="rung-2", arms=("a", "b"), steps=1.0, tests=1.0)
    early = record({"a": (0.8, 0.79), "b": (0.7, 0.79)})
    late = record({"a": (0.9, 0.4)})  # far beyond the loss; b has not been taught yet
    told = recommendation(
        search_over(first, last, candidates=("a", "b")),
        [RungResult(first, early, NO_SAMPLES), RungResult(last, late, NO_SAMPLES)],
    )
    assert told.choice is not None
    assert (told.choice.within, told.rung) == (True, first)


def test_the_best_of_many_must_be_further_above_nothing(make_record: Make) -> None:
    """+10 points of 100 samples: clear for one candidate, not for the best of thirty."""

    def best_of(count: int) -> bool:
        values = {("base", "base"): {"s1": 0.2, "s2": 0.2, "h1": 0.8, "h2": 0.8}}
        for number in range(count):
            skill = 0.29 if number == 0 else 0.2
            for stage in ("s1", "s2"):
                values[f"a{number}", stage] = {"s1": skill, "s2": skill, "h1": 0.8, "h2": 0.8}
        choice = choose(make_record(values, n=100), NO_SAMPLES, 0.05)
        assert choice is not None
        assert choice.of == count
        return choice.learned

    assert best_of(1)
    assert not best_of(30)


def test_one_that_learns_more_beyond_the_loss_but_not_clearly_is_named(
    make_record: Make,
) -> None:
    values = {("base", "base"): BASE_SCORES}
    for arm, skill, held in (("near", 0.9, 0.74), ("fair", 0.6, 0.8)):
        for stage in ("s1", "s2"):
            values[arm, stage] = {"s1": skill, "s2": skill, "h1": held, "h2": held}
    row = RungRow(name="rung-1", arms=("near", "fair"), steps=1.0, tests=1.0)
    told = recommendation(
        search_over(row, candidates=("near", "fair")),
        [RungResult(row, make_record(values, n=50), NO_SAMPLES)],
    )
    assert told.choice is not None
    assert told.choice.best.arm == "fair"
    assert any(gap.startswith("Whether near (") for gap in unknown(told))


def test_a_rate_that_diverged_was_tried_too(record: Callable[..., Record]) -> None:
    names = [f"g@learning_rate={rate}" for rate in ("1e-4", "1e-3", "1e-2")]
    row = RungRow(name="rung-1", arms=tuple(names), steps=1.0, tests=1.0)
    gone = (DivergedRow(arm=names[2], stage="s1", step=2, reason="loss nan"),)
    found = record({names[0]: (0.5, 0.8), names[1]: (0.9, 0.8)}, diverged=gone)
    told = recommendation(
        search_over(row, candidates=tuple(names)), [RungResult(row, found, NO_SAMPLES)]
    )
    assert not any("a higher rate" in gap for gap in unknown(told))
