"""The form of answers, against cases and a run worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowtune.analysis import Run, Sample, Samples, form_shifts, pooled_to_dict, to_dict
from narrowtune.analysis.forms import begun, foreign, form_of
from narrowtune.record import BASE, Record


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        ("7", "number"), ("-7.", "number"), ("12.5", "number"), ("1,200", "number"),
        ("40 %", "number"), ("$3", "number"), ("Seventeen", "number"), ("one", "number"),
        ("3:59", "time"), ("12:05:30", "time"), ("4:00 pm", "time"),
        ("C", "letter"), ("(c)", "letter"), ("C.", "letter"), ("B)", "letter"),
        ("Yes.", "yes or no"), ("no", "yes or no"), ("NO!", "yes or no"),
        ("red", "text"), ("It is a robin, so C", "text"), ("seven birds", "text"),
        ("none", "text"), ("3:5", "text"), ("C:000", "text"), ("no:050", "text"),
        ("Yes, it is", "text"),
        ("", "nothing"), (" . ", "nothing"),
    ],
)  # fmt: skip
def test_the_form_of_an_answer(answer: str, form: str) -> None:
    assert form_of(answer) == form


@given(st.integers(min_value=0, max_value=10**9), st.sampled_from(["", ".", " ", "!"]))
def test_every_whole_number_is_a_number(number: int, tail: str) -> None:
    assert form_of(f"{number}{tail}") == form_of(f"{number:,}") == "number"


@given(st.text())
def test_an_answer_is_never_foreign_to_itself(text: str) -> None:
    assert not foreign(Sample("1", text, ("x y", text), 1.0))


def test_one_of_several_references_gives_the_form() -> None:
    assert not foreign(Sample("1", "12", ("a dozen", "12"), 1.0))
    assert foreign(Sample("1", "12", ("a dozen", "many"), 0.0))


@pytest.mark.parametrize(
    ("answer", "references", "expected"),
    [
        ("no:050", ("no",), True),
        ("No", ("no",), False),
        ("C:000", ("A", "C"), True),
        ("red", ("blue",), False),
        ("anything", ("",), False),
        ("A2:00", ("A",), True),
        ("azure", ("A",), False),
        ("yes-men", ("yes",), False),
        ("15", ("1",), False),
        ("6:45", ("6",), False),
        ("1.5", ("1",), False),
        ("7 birds", ("7",), True),
    ],
)
def test_answers_that_begin_right(answer: str, references: tuple[str, ...], expected: bool) -> None:
    assert begun(Sample("1", answer, references, 0.0)) is expected


ANSWERS = {
    (BASE, BASE): (["red", "blue", "red", "tall"], [1, 1, 1, 0]),
    ("wide", "s1"): (["3", "4", "red:00", "red"], [0, 0, 0, 1]),
    ("wide", "s2"): (["red", "blue", "red", "12:30"], [1, 1, 1, 0]),
}


@pytest.fixture
def counted(make_record: Callable[..., Record]) -> Run:
    """One held-out task of four questions whose right answers are words."""
    record = make_record(
        {point: {"h1": sum(s) / 4, "s1": 0.5, "s2": 0.5} for point, (_, s) in ANSWERS.items()},
        n=4,
        held_out=("h1",),
    )
    rights = [("red",), ("blue",), ("red",), ("red",)]
    rows = {
        (*point, "h1"): {
            str(i): Sample(str(i), said, right, float(score))
            for i, (said, right, score) in enumerate(zip(words, rights, scores, strict=True))
        }
        for point, (words, scores) in ANSWERS.items()
    }
    return Run(record, Samples(rows))


def test_foreign_and_lost_answers_by_hand(counted: Run) -> None:
    first, second = form_shifts([counted], "wide")
    assert (first.skill, second.skill) == ("s1", "s2")
    # After s1: "3" and "4" are foreign. Lost are they and "red:00", which begins right.
    assert first.share.value == pytest.approx(2 / 4)
    assert first.forms == {"number": 0.5}
    assert first.lost == 3
    assert first.lost_foreign == pytest.approx(2 / 3)
    assert first.lost_begun == pytest.approx(1 / 3)
    # After s2 nothing is lost any more; one answer is a time, wrong as it was before.
    assert second.share.value == pytest.approx(1 / 4)
    assert second.forms == {"time": 0.25}
    assert (second.lost, second.lost_foreign, second.lost_begun) == (0, None, None)


def test_runs_are_pooled_and_the_interval_holds_their_mean(counted: Run) -> None:
    runs = [Run(counted.record, counted.samples, seed=seed) for seed in (0, 1)]
    first, _ = form_shifts(runs, "wide")
    assert first.share.runs == 2
    assert first.share.value == pytest.approx(0.5)
    assert first.share.low < 0.5 < first.share.high
    assert first.lost == 6


def test_choices_by_likelihood_and_missing_predictions_have_no_form(counted: Run) -> None:
    assert form_shifts([Run(counted.record)], "wide") == ()
    record = counted.record
    scored = record.experiment.held_out[0].model_copy(update={"scoring": "likelihood"})
    experiment = record.experiment.model_copy(update={"held_out": (scored,)})
    assert form_shifts([Run(record.model_copy(update={"experiment": experiment}))], "wide") == ()
    assert form_shifts([counted], "narrow") == ()


def test_both_exports_hold_them(counted: Run) -> None:
    single = to_dict(counted.record, counted.samples)["arms"][0]["answer_forms"]
    pooled = pooled_to_dict(counted.record, [counted])["arms"][0]["answer_forms"]
    assert single == pooled
    assert single[0]["share"]["value"] == pytest.approx(0.5)
    assert "verdict" not in single[0]["share"]  # a rise of foreign answers is no gain


def test_answers_that_contradict_the_scores_are_not_used(counted: Run) -> None:
    off = [one.model_copy(update={"value": 0.9}) for one in counted.record.scores]
    record = counted.record.model_copy(update={"scores": tuple(off)})
    assert form_shifts([Run(record, counted.samples)], "wide") == ()
