"""Metrics with partial credit or references of many annotators: tables, sources' numbers, laws."""

import string
from fractions import Fraction
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_examples import example

from narrowtune.evaluation.agreement import edit_distance
from narrowtune.evaluation.metrics import METRICS, misfits
from narrowtune.evaluation.reading.chart import read_chart
from narrowtune.evaluation.reading.vqa import read_vqa

VQA = [
    ("Yes.", "yes"), ("YES!", "yes"), ("two dogs", "2 dogs"), ("none", "0"), ("zero", "0"),
    ("Ten", "10"), ("eleven", "eleven"), ("seventeen", "seventeen"), ("often", "often"),
    ("12.5", "12.5"), ("125", "125"), ("3:59", "3:59"), ("3:59.", "3:59"), ("4:00", "4:00"),
    ("The robin", "robin"), ("a", None), ("", None), ("...", None), ("It is a robin, so C",
    "it is robin so c"), ("1,000", "1000"), ("red, blue", "red blue"), ("red,blue", "red blue"),
    ("red/blue", "red blue"), ("red / blue", "red blue"), ("t-shirt", "t shirt"),
    ("-3", "3"), ("- 3", "3"), ("u.s.", "us"), (".5", ".5"), ("5.", "5"), ("$5", "$5"),
    ("dont", "don't"), ("don’t", "don't"), ("couldnt've", "couldn't've"), ("whats", "what's"),
    ("twas", "'twas"), ("yall'll", "y'all'll"), ("hes\nhere", "he's here"), ("lets", "lets"),
    ("somebodyd", "somebody'd"), ("rock 'n' roll", "rock 'n' roll"), ("AT&T", "at&t"),
    ("1,000 (about)", "1000 about"), ("well-known, 1,000", "wellknown 1000"), ("a b the c", "b c"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "read"), VQA)
def test_vqa_normalisation(text, read):
    assert read_vqa(text) == read


@pytest.mark.parametrize(
    ("given", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1), (10, 1)]
)
def test_vqa_accuracy_of_an_answer_that_so_many_of_ten_annotators_gave(given, score):
    answers = ["two"] * given + [f"other {n}" for n in range(10 - given)]
    assert METRICS["vqa"].score("2", answers) == pytest.approx(score)


def leave_one_out(said, answers):
    """VQA accuracy as written down: each annotator left out in turn."""
    found = []
    for out in range(len(answers)):
        others = answers[:out] + answers[out + 1 :]
        found.append(min(Fraction(sum(other == said for other in others), 3), Fraction(1)))
    return sum(found) / len(found)


@given(st.sampled_from("rst"), st.lists(st.sampled_from("rstu"), min_size=4, max_size=12))
def test_vqa_accuracy_is_the_mean_over_leaving_each_annotator_out(said, answers):
    score = METRICS["vqa"].score(said, answers)
    assert score == pytest.approx(float(leave_one_out(said, answers)))
    assert score == METRICS["vqa"].score(said.upper() + ".", answers[::-1])


def test_an_annotator_without_words_counts_as_one_who_said_something_else():
    assert METRICS["vqa"].score("red", ["red"] * 3 + ["", "a"] + ["blue"] * 5) == pytest.approx(0.9)
    assert METRICS["vqa"].score("the", ["", "a", "the"] * 3) == 0.0


ANLS = [
    # Hand-computed: 1 - distance / longer, or 0 below a half.
    ("robin", "robin", 1), ("ROBIN", "robin", 1), (" robin\n", "robin", 1),
    ("robins", "robin", 5 / 6),
    ("kitten", "sitting", 4 / 7), ("saturday", "sunday", 5 / 8), ("ab", "ax", 0.5), ("ab", "xy", 0),
    ("abcd", "abxy", 0.5), ("abcde", "abxyz", 0), ("", "robin", 0), ("robin.", "robin", 5 / 6),
    ("seventeen", "17", 0), ("none", "0", 0), ("often", "ten", 0.6), ("125", "12.5", 0.75),
    ("12.5", "12.5", 1), ("3:59", "4:00", 0), ("359", "3:59", 0.75), ("Yes.", "yes", 0.75),
    ("It is a robin, so C", "C", 0), ("new  york", "new york", 1), ("café", "cafe", 0.75),
    ("cafe\N{COMBINING ACUTE ACCENT}", "café", 1), ("the robin", "robin", 5 / 9),
]  # fmt: skip


@pytest.mark.parametrize(("said", "reference", "score"), ANLS)
def test_anls(said, reference, score):
    assert METRICS["anls"].score(said, [reference]) == pytest.approx(score)


@cache
def slow_distance(one, other):
    """The definition, by recursion on the last characters."""
    if not one or not other:
        return len(one) + len(other)
    kept = slow_distance(one[:-1], other[:-1]) + (one[-1] != other[-1])
    return min(kept, slow_distance(one[:-1], other) + 1, slow_distance(one, other[:-1]) + 1)


SHORT = st.text("abc", max_size=7)


@given(SHORT, SHORT, SHORT)
def test_the_edit_distance_is_the_definition_and_a_metric(one, other, third):
    distance = edit_distance(one, other)
    assert distance == slow_distance(one, other) == edit_distance(other, one)
    assert (distance == 0) == (one == other)
    assert distance <= edit_distance(one, third) + edit_distance(third, other)


RELAXED = [
    ("100", "100", 1), ("105", "100", 1), ("95", "100", 1), ("105.01", "100", 0),
    ("94.9", "100", 0),
    ("1.05", "1", 1), ("0.95", "1.0", 1), ("-105", "-100", 1), ("105", "-100", 0),
    ("100", "105.1", 1), ("100", "105.5", 0),
    ("0", "0", 1), ("0.0", "0", 1), ("0.01", "0", 0), ("-0", "0", 1), ("+5", "5", 1),
    ("12%", "12%", 1), ("12%", "0.12", 1), ("12 %", "12.5%", 1), ("12", "12%", 0),
    ("1e2", "100", 1),
    ("12.5", "12.5", 1), ("125", "12.5", 0), ("seventeen", "17", 0), ("none", "0", 0),
    ("often", "10", 0),
    ("1,234", "1234", 0), ("1,234", "1,234", 1), ("$5", "5", 0), ("5 kg", "5", 0), ("5.", "5", 1),
    (".5", "0.5", 1), ("3:59", "4:00", 0), ("3:59", "3:59", 1), ("Yes", "yes", 1),
    ("Yes.", "yes", 0),
    ("It is a robin, so C", "C", 0), ("nan", "nan", 1), ("nan", "5", 0), ("inf", "5", 0),
    ("", "5", 0),
    ("about 5", "5", 0), ("Germany", "germany", 1), ("germany ", "Germany", 1), ("2016", "1990", 1),
    ("9" * 6000, "5", 0), ("5", "9" * 6000, 0), ("1_0", "10", 0), ("٥", "5", 0),
]  # fmt: skip


@pytest.mark.parametrize(("said", "reference", "score"), RELAXED)
def test_relaxed(said, reference, score):
    assert METRICS["relaxed"].score(said, [reference]) == score


INTEGERS = st.integers(-(10**6), 10**6)


@given(INTEGERS, INTEGERS, st.integers(-6, 6))
def test_relaxed_agreement_does_not_depend_on_the_unit(said, reference, power):
    metric, score = METRICS["relaxed"], METRICS["relaxed"].score(str(said), [str(reference)])
    assert score == metric.score(f"{said}e{power}", [f"{reference}e{power}"])
    assert score == metric.score(f"{said}%", [f"{reference}%"])
    assert score == metric.score(str(-said), [str(-reference)])
    assert score == float(20 * abs(said - reference) <= abs(reference))


F1 = [
    ("the cat sat", "cat sat down", 0.8), ("robin", "robin", 1), ("A robin.", "the Robin", 1),
    ("red robin", "robin red", 1), ("robin robin", "robin", 2 / 3),
    ("robin", "robin robin red", 0.5),
    ("crow", "robin", 0), ("", "robin", 0), ("It is a robin, so C", "robin", 1 / 3), ("A", "A", 1),
    ("12.5", "12.5", 1), ("125", "12.5", 0), ("3:59", "359", 0), ("Yes.", "yes", 1),
    ("seventeen", "17", 0), ("none", "0", 0), ("often", "ten", 0), ("?", "!", 0), ("5%", "5", 0),
    ("a red circle left of a square", "a blue circle left of a square", 0.8),
]  # fmt: skip


@pytest.mark.parametrize(("said", "reference", "score"), F1)
def test_f1(said, reference, score):
    assert METRICS["f1"].score(said, [reference]) == pytest.approx(score)


@pytest.mark.parametrize("name", ["anls", "relaxed", "f1"])
def test_the_best_of_several_references_counts(name):
    metric, references = METRICS[name], ["crow", "red robin", ""]
    assert metric.score("red robins", references) == max(
        metric.score("red robins", [reference]) for reference in references
    )


# Laws.
TEXT = st.text(max_size=40) | st.text(st.sampled_from(string.printable), max_size=40)
VOCABULARY = "robin a the one two 2 dont don't 12.5 12,5 5% 3:59 red-blue . yes No seventeen"
WORDY = st.lists(st.sampled_from(VOCABULARY.split()), max_size=8).map(" ".join)
GRADED = st.sampled_from(["vqa", "anls", "relaxed", "f1"])


@given(GRADED, TEXT | WORDY, st.lists(TEXT | WORDY, min_size=1, max_size=5))
def test_scores_lie_between_0_and_1_whatever_the_order_of_references(name, said, references):
    score = METRICS[name].score(said, references)
    assert 0.0 <= score <= 1.0
    assert score == METRICS[name].score(said, references[::-1])


@given(GRADED, TEXT | WORDY)
def test_a_readable_reference_is_right_against_itself(name, text):
    metric = METRICS[name]
    readable = metric.read(text, ()) is not None
    assert metric.score(text, [text] * metric.fewest_references) == float(readable)


@given(GRADED, st.text(st.sampled_from(string.printable), max_size=40) | WORDY)
def test_neither_case_nor_surrounding_space_matters(name, text):
    read = METRICS[name].read
    assert read(text.upper(), ()) == read(text.lower(), ()) == read(f" \n{text.strip()}\t", ())


@given(st.sampled_from(["anls", "f1"]), TEXT | WORDY, TEXT | WORDY)
def test_likeness_is_symmetric(name, one, other):
    score = METRICS[name].score(one, [other])
    assert score == pytest.approx(METRICS[name].score(other, [one]))


@given(TEXT | WORDY)
def test_a_mark_behind_a_word_changes_nothing_for_vqa_and_f1(text):
    words = " ".join(text.split()).rstrip(string.punctuation).strip()
    if words and words[-1].isalnum() and words.isascii():
        assert METRICS["f1"].read(words + "!", ()) == METRICS["f1"].read(words, ())
    word = "".join(filter(str.isalpha, words)) or "robin"
    assert read_vqa(word + "?") == read_vqa(word)


@given(TEXT | WORDY)
def test_a_chart_answer_is_words_or_a_finite_number(text):
    value = read_chart(text)
    assert value is None or isinstance(value, str) or value.is_finite()


@given(WORDY, WORDY)
def test_f1_is_1_at_least_where_exact_is_right(one, other):
    assert METRICS["f1"].score(one, [other]) >= METRICS["exact"].score(one, [other])


def test_vqa_refuses_fewer_than_four_annotators_and_forgives_one_without_words():
    (told,) = misfits("vqa", [example("red", line=3), example(*["red"] * 4)])
    assert told.startswith("t.jsonl:3: metric 'vqa' needs the answers of 4 annotators")
    assert "has 1" in told and "'exact'" in told
    assert misfits("vqa", [example("a", "", *["red"] * 8)]) == []
    assert len(misfits("vqa", [example("a", "", "the", "...")])) == 4


@pytest.mark.parametrize("name", ["anls", "relaxed", "f1", "bleu"])
def test_a_reference_without_words_is_told(name):
    (told,) = misfits(name, [example("a red robin sings", line=1), example("fine", " ", line=2)])
    assert told.startswith(f"t.jsonl:2: metric {name!r} finds no ") and told.endswith("' '")
