"""Right or wrong: tables of tricky answers, and laws that all such metrics keep."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_examples import example

from narrowtune.errors import InputError
from narrowtune.evaluation.metrics import METRICS, metric_named, misfits
from narrowtune.evaluation.reading.clock import read_clock
from narrowtune.evaluation.reading.number import read_number
from narrowtune.evaluation.reading.option import read_option
from narrowtune.evaluation.reading.words import normalised
from narrowtune.evaluation.reading.yes_no import read_yes_no

RIGHT_OR_WRONG = ("exact", "option", "number", "clock", "yes_no")

NUMBERS = [
    ("17", 17), ("seventeen", 17), ("Seventeen.", 17), ("SEVENTEEN", 17),
    ("7", 7), ("7.", 7), ("There are 7 birds.", 7), ("there are seven birds", 7),
    ("none", 0), ("None.", 0), ("zero", 0), ("0", 0), ("no birds", 0), ("There are no birds.", 0),
    ("no idea", None), ("No clear answer", None), ("no", None), ("No one knows.", None),
    ("often", None), ("someone", None), ("stone", None), ("weight", None), ("", None),
    ("I am not sure", None),
    ("12.5", "12.5"), ("12.50", "12.5"), (".5", "0.5"), ("12.", 12), ("7.0", 7),
    ("1,234", 1234), ("$1,234.50", "1234.5"), ("1,234,567", 1234567), ("1, 2, 3", 3),
    ("-3", -3), ("−3", -3), ("minus three", -3), ("negative 3", -3), ("10-3", 3),
    ("10 minus 3 is 7", 7), ("- 7 birds", 7),
    ("twenty-five", 25), ("twenty five", 25), ("one hundred and five", 105), ("a hundred", 100),
    ("two thousand three hundred and forty-one", 2341), ("two hundred thousand", 200000),
    ("3 million", 3000000), ("1.2 million", 1200000), ("a dozen", 12), ("two dozen eggs", 24),
    ("three point one four", "3.14"), ("one thousand two thousand", 2000),
    ("two and three", 3), ("two or three", 3), ("one two three", 3), ("five hundred", 500),
    ("3rd", None), ("the 21st", None), ("the third", None), ("twenty-first", None),
    ("the two hundredth", None), ("one second", 1), ("sixty seconds", 60),
    ("B12", None), ("v1.2.3", None), ("3:59", None), ("12/05/2024", None),
    ("12kg", 12), ("3/4", "0.75"), ("3/0", None), ("1e3", 1000), ("50%", 50), ("50 %", 50),
    ("#### 72", 72), ("48/2 = 24\n48+24 = 72\n#### 72", 72), ("The answer is 72.", 72),
    ("The answer is 72. That is 6 dozen.", 72), ("Answer: 7", 7), (r"\boxed{42}", 42),
    ("**Answer:** 7", 7), ("First the answer is 5; no, the answer is 6", 6),
    ("#### 72\n\nNext question ... #### 5", 72), ("The answer is unclear: 4", 4),
    ("Of the 12 animals, 7 are birds", 7), ("9" * 6000, None),
    ("9" * 25, "9" * 25), ("1e99", "1e99"), ("1,000e99 hundred", "1e104"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), NUMBERS)
def test_number(text, value):
    read = read_number(text)
    assert (read is None) if value is None else (read is not None and read == type(read)(value))


OPTIONS = [
    *[(text, "c") for text in (
        "C", "c", "(C)", "C.", "C)", "[C]", "**C**", " C \n", "C: robin", "C. robin", "(C) robin",
        "c) robin", "C, because of its red breast", "C robin", "C\n\nA robin is a bird.",
        "It is a robin, so C", "It is a robin, so C.", "The answer is C", "The answer is (C).",
        "Answer: c)", "Answer: C. A robin", "**Answer:** C", r"\boxed{C}", "Option C",
        "The correct option is C because a robin is red", "I think it is C", "C is right",
        "The bird is a robin (C)", "It is C, not B", "B is tempting, so the answer is C",
        "It is a robin, not B, so C", "Therefore, C", "I choose C",
    )],
    *[(text, "a") for text in (
        "A", "a", "(A)", "A.", "A is correct", "A, because it is red", "The answer is A",
        "The answer is A because it is red", "A rather than that", "so A", "Option A",
    )],
    *[(text, None) for text in (
        "A robin", "a robin", "It is a robin", "It's a robin.", "The answer is a robin",
        "Answer: A robin", "A robin is a bird", "I see a bird", "I do not know", "", "robin",
        "X-ray", "C or D", "e.g. birds", "U.S. birds", "it's", "AT&T", "???",
    )],
    ("I", "i"), ("I.", "i"), ("I think Z", "z"), ("(A) or (B)", "a"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "letter"), OPTIONS)
def test_option_letter(text, letter):
    assert read_option(text) == letter


BIRDS = ("crow", "a robin", "black bird", "bird")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("robin", "b"), ("A robin", "b"), ("The answer is a robin.", "b"), ("B", "b"),
        ("It is a robin", "b"), ("a black bird", "c"), ("It is a black bird.", "c"),
        ("a crow or a robin", None), ("E", None), ("a heron", None), ("(D) robin", "d"),
        ("crowd", None),
    ],
)  # fmt: skip
def test_option_by_its_text_where_choices_are_known(text, letter):
    assert read_option(text, BIRDS) == letter


def test_option_whose_choices_are_letters_themselves():
    assert read_option("The answer is (D).", ("A", "B", "C", "D")) == "d"
    assert read_option("E", ("A", "B", "C", "D")) is None
    letters = tuple("ABCDEFGHIJ")  # its I is no option where it is the pronoun
    for said in ("I think it is a gull", "I am not sure", "It has a B-like mark"):
        assert read_option(said, letters) is None
    assert read_option("I", letters) == "i"
    assert METRICS["option"].score("bird 30", ["bird 30"], [f"bird {n}" for n in range(40)]) == 0.0


CLOCKS = [
    ("3:59", "3:59", 1), ("3:59", "3:00", 0), ("4:00", "3:59", 1), ("3:59", "4:00", 1),
    ("3:58", "4:00", 0), ("12:00", "11:59", 1), ("11:59", "12:00", 1), ("00:00", "12:00", 1),
    ("15:30", "03:30", 1), ("3:30 pm", "03:30", 1), ("It is 3:30.", "03:30", 1),
    ("03:30:45", "03:30", 1), ("9:30", "3:30", 0), ("3 o'clock", "03:00", 1),
    ("three o'clock", "3:00", 1), ("four o’clock", "3:59", 1),
    ("The answer is 3:30, not 9:30", "3:30", 1),
    ("3.59", "3:59", 0), ("3:75", "3:15", 0), ("25:00", "1:00", 0), ("3", "3:00", 0),
    ("", "3:00", 0), ("359", "3:59", 0), ("113:30", "3:30", 0), ("3:305", "3:30", 0),
]  # fmt: skip


@pytest.mark.parametrize(("said", "reference", "value"), CLOCKS)
def test_clock(said, reference, value):
    assert METRICS["clock"].score(said, [reference]) == value


YES_NO = [
    *[(text, "yes") for text in (
        "Yes.", "yes", "YES!", "Yes, there is.", "Yes, no doubt about it.", "The answer is yes",
        "Is it yes or no? Yes.", "**Yes**", "Answer: Yes", "No matter what, yes",
    )],
    *[(text, "no") for text in (
        "No, there is not", "no", "No.", "There is no cat.", "No birds here, so the answer is no.",
        "It is a yes/no question: no",
    )],
    *[(text, None) for text in (
        "not sure", "I know", "I know nothing", "No idea", "yes or no", "nothing", "north", "",
        "eyes", "yesterday", "no-one", "Not at all", "maybe", "true",
    )],
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), YES_NO)
def test_yes_no(text, value):
    assert read_yes_no(text) == value


EXACT = [
    ("Robin", "robin", 1), ("a robin", "robin", 1), ("The robin.", "robin", 1),
    (" robin \n", "robin", 1), ("“robin”", "robin", 1), ("**robin**", "robin", 1),
    ("robins", "robin", 0), ("", "robin", 0), ("a", "the", 0), ("A", "A", 1), ("A", "B", 0),
    ("vitamin A", "vitamin", 0), ("125", "12.5", 0), ("12.5.", "12.5", 1), ("359", "3:59", 0),
    ("3", "-3", 0), ("5", ".5", 0), ("5%", "5", 0), ("?", "!", 0), ("?", "", 0),
    ("A red circle is left of the blue square.", "a red circle is left of a blue square", 1),
    ("a red circle is right of the blue square", "a red circle is left of a blue square", 0),
    ("don’t", "don't", 1), ("CAFÉ", "cafe\N{COMBINING ACUTE ACCENT}", 1), ("C#", "c", 0),
    ("red,  blue", "red blue", 1), ("STRASSE", "straße", 1),
]  # fmt: skip


@pytest.mark.parametrize(("said", "reference", "value"), EXACT)
def test_exact(said, reference, value):
    assert METRICS["exact"].score(said, [reference]) == value


def test_any_reference_may_match_and_an_unreadable_one_matches_nothing():
    assert METRICS["exact"].score("crow", ["raven", "Crow"]) == 1.0
    assert METRICS["number"].score("7", ["often", "seven"]) == 1.0
    assert METRICS["number"].score("often", ["often"]) == 0.0
    assert METRICS["yes_no"].score("not sure", ["unclear"]) == 0.0


def test_versions_name_metric_and_revision():
    assert {name: metric.version for name, metric in METRICS.items()} == {
        name: f"{name}/1" for name in (*RIGHT_OR_WRONG, "vqa", "anls", "relaxed", "f1", "bleu")
    } | {"option": "option/2"}


def test_unknown_metric_names_the_nearest():
    with pytest.raises(InputError, match="'number'"):
        metric_named("nubmer")


def test_a_metric_that_cannot_read_the_references_is_told_line_by_line():
    rows = [example("7", line=1), example("often", line=2), example("a robin", line=3)]
    problems = misfits("number", rows)
    assert [problem.split(":")[1] for problem in problems] == ["2", "3"]
    assert "'often'" in problems[0]
    assert misfits("exact", rows) == []
    assert misfits("option", [example("a robin", choices=BIRDS)]) == []


# Laws.
TEXT = st.text(max_size=60) | st.text(st.sampled_from(string.printable), max_size=60)
CHOICES = st.just(()) | st.just(BIRDS) | st.just(("A", "B", "C"))
NAMES = st.sampled_from(RIGHT_OR_WRONG)
TRICKY = (
    "the answer is : a an I it so C (B) d) no none yes seven twenty hundred and thousand million "
    "point dozen minus - 3 4.5 1,000 3:59 #### first . , \n one two 1/2 o'clock twelve"
)
WORDY = st.lists(st.sampled_from(TRICKY.split(" ")), max_size=12).map(" ".join)


@given(NAMES, TEXT | WORDY, TEXT | WORDY, CHOICES)
def test_scores_lie_between_0_and_1_and_agreement_is_symmetric(name, one, other, choices):
    metric = METRICS[name]
    score = metric.score(one, [other], choices)
    assert 0.0 <= score <= 1.0
    assert score == metric.score(other, [one], choices)


@given(NAMES, TEXT | WORDY, CHOICES)
def test_a_readable_reference_is_right_against_itself(name, text, choices):
    metric = METRICS[name]
    readable = metric.read(text, choices) is not None
    assert metric.score(text, [text], choices) == float(readable)


@given(NAMES, st.text(st.sampled_from(string.printable), max_size=60) | WORDY, CHOICES)
def test_case_does_not_matter(name, text, choices):
    metric = METRICS[name]
    assert metric.read(text.upper(), choices) == metric.read(text.lower(), choices)


@given(NAMES, WORDY, st.sampled_from(["{} ", " {}", "\n{}\n", "\t{}"]))
def test_surrounding_space_does_not_matter(name, text, frame):
    metric = METRICS[name]
    assert metric.read(frame.format(text.strip()), ()) == metric.read(text.strip(), ())


@given(TEXT | WORDY)
def test_normalising_twice_changes_nothing(text):
    assert normalised(normalised(text)) == normalised(text)


@given(st.integers(0, 719), st.integers(0, 719), st.integers(0, 719))
def test_the_dial_has_no_special_place(one, other, turn):
    def at(minute):
        return f"{minute % 720 // 60}:{minute % 60:02}"

    clock = METRICS["clock"]
    assert read_clock(at(one)) == one
    score = clock.score(at(one), [at(other)])
    assert score == clock.score(at(one + turn), [at(other + turn)])
    assert score == float((one - other) % 720 in (0, 1, 719))


@given(st.integers(-(10**12), 10**12))
def test_integers_are_read_in_every_spelling(value):
    assert read_number(str(value)) == value
    assert read_number(f"{value:,}") == value
    assert read_number(f"There are {value}.") == value


@given(st.integers(0, 999_999_999))
def test_numbers_are_read_in_words(value):
    assert read_number(in_words(value)) == value
    assert read_number(in_words(value).replace("-", " ")) == value


SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety"


def in_words(value):
    for size, name in ((10**6, "million"), (1000, "thousand"), (100, "hundred")):
        if value >= size:
            rest = value % size
            joint = " and " if rest and rest < 100 else " "
            tail = joint + in_words(rest) if rest else ""
            return f"{in_words(value // size)} {name}{tail}"
    if value < 20:
        return SMALL.split()[value]
    return TENS.split()[value // 10] + (f"-{SMALL.split()[value % 10]}" if value % 10 else "")
