"""What shuffled answers score: against all pairings, one by one."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations
from statistics import fmean, stdev
from typing import Any

import pytest
from wide_models import Tiny

from narrowtune.data.example import Example
from narrowtune.evaluation import PreparedTask, prepare
from narrowtune.evaluation import guessing as guessing_module
from narrowtune.evaluation.guessing import guesses
from narrowtune.evaluation.tasks import How

Task = Callable[..., PreparedTask]


@pytest.fixture
def task(tiny: Callable[[str], Tiny], questions: Callable[..., list[Example]]) -> Task:
    """A task whose right answers are these, and whose choices are those."""

    def make(
        right: Sequence[str], choices: Sequence[tuple[str, ...]] = (), **how: Any
    ) -> PreparedTask:
        asked = choices or [()] * len(right)
        rows = [
            replace(row, references=(answer,), choices=offered)
            for row, answer, offered in zip(questions(len(right), False), right, asked, strict=True)
        ]
        return prepare(tiny("llama").processing, rows, How(**how))

    return make


def said(answers: Sequence[str]) -> list[dict[str, str]]:
    return [{"prediction": answer} for answer in answers]


def over_all_pairs(task: PreparedTask, answers: Sequence[str]) -> float:
    pairs = permutations(range(len(answers)), 2)
    rows = task.examples
    return fmean(
        task.metric.score(answers[i], rows[j].references, rows[j].choices) for i, j in pairs
    )


def test_the_mean_is_the_score_over_all_pairings(task: Task) -> None:
    asked = task(["1", "2", "2", "3", "7", "7", "7"], metric="number")
    answers = ["2", "two", "7", "seven", "", "1", "7"]
    assert fmean(guesses(asked, said(answers))) == pytest.approx(over_all_pairs(asked, answers))


def test_by_hand(task: Task) -> None:
    """Yes to all of yes, yes, no: 1, 1 and 1/2 of the others; on them 1, 1, 0; over all 2/3."""
    asked = task(["yes", "yes", "no"], metric="yes_no")
    found = guesses(asked, said(["yes", "yes", "yes"]))
    assert found == pytest.approx([0.5 + 1 - 2 / 3, 0.5 + 1 - 2 / 3, 1 + 0 - 2 / 3])


def test_a_foreign_form_guesses_nothing_and_one_answer_all_that_its_share_is(task: Task) -> None:
    right = ["yes", "no"] * 10
    asked = task(right, metric="yes_no")
    assert fmean(guesses(asked, said(["7"] * 20))) == 0
    assert fmean(guesses(asked, said(["no"] * 20))) == pytest.approx(0.5)
    knows = fmean(guesses(asked, said(right)))
    assert knows == pytest.approx(9 / 19), "its own question is not among the others"


def test_the_spread_over_samples_is_that_of_the_score(task: Task) -> None:
    """Of tasks drawn anew the guessing score varies as one task's own numbers say."""
    draw = random.Random(1)

    def one() -> list[float]:
        right = [draw.choice("aab") for _ in range(60)]
        answers = [draw.choice("abbbc") for _ in range(60)]
        return guesses(task(right), said(answers))

    drawn = [one() for _ in range(60)]
    scores = [fmean(values) for values in drawn]
    told = fmean(stdev(values) / 60**0.5 for values in drawn)
    assert stdev(scores) == pytest.approx(told, rel=0.3)


def test_of_many_rows_some_pairings_are_judged_each_row_as_often(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(2)
    asked = task([draw.choice("abc") for _ in range(60)])
    answers = [draw.choice("abcd") for _ in range(60)]
    whole = fmean(guesses(asked, said(answers)))
    monkeypatch.setattr(guessing_module, "PAIRS", 60 * 20)
    part = guesses(asked, said(answers))
    assert part == guesses(asked, said(answers))
    assert fmean(part) == pytest.approx(whole, abs=0.03)
    assert fmean(part) != whole
    assert len(guessing_module._rotations(60)) == 20


def test_a_choice_is_put_to_questions_that_offer_it_and_chance_stands_for_the_others(
    task: Task,
) -> None:
    offered = [("cat", "dog"), ("dog", "cat"), ("red", "blue", "green")]
    asked = task(["cat", "dog", "blue"], offered, scoring="likelihood")
    found = fmean(guesses(asked, said(["cat", "cat", "red"])))
    # cat on (cat, dog, blue), cat again, red: wrong at dog, a third at blue, right at cat, ...
    assert found == pytest.approx(fmean([0, 1 / 3, 1, 1 / 3, 1 / 2, 1 / 2]))


def test_always_the_same_choice_guesses_its_share(task: Task) -> None:
    right = ["yes", "no", "no", "no"]
    asked = task(right, [("yes", "no"), ("no", "yes")] * 2, scoring="likelihood-sum")
    assert fmean(guesses(asked, said(["no"] * 4))) == pytest.approx(0.75)


def test_a_metric_of_the_whole_test_set_is_taken_over_rotations(task: Task) -> None:
    texts = [f"the {word} cat sat on the mat" for word in ("red", "big", "old", "sad")]
    asked = task(texts, metric="bleu")
    corpus = asked.metric.corpus
    assert corpus is not None
    references = [row.references for row in asked.examples]
    turned = [corpus(texts, references[by:] + references[:by]).value for by in (1, 2, 3)]
    assert fmean(guesses(asked, said(texts))) == pytest.approx(fmean(turned))
    assert 0.3 < fmean(turned) < 1


def test_one_row_has_no_others(task: Task) -> None:
    assert guesses(task(["7"]), said(["7"])) == [0.0]
