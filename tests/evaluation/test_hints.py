"""Prompts with hints, and which rows are set apart to make them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from narrowtune.data.example import Example, ImagePart, Message, TextPart
from narrowtune.evaluation.hints import (
    format_instruction,
    split_clusters,
    with_examples,
    with_instruction,
    worked_examples,
)


def row(answer: str, number: int = 0, system: bool = False) -> Example:
    turns = [
        Message("user", (TextPart(f"What is {number}?"),)),
        Message("assistant", (TextPart(answer),)),
    ]
    if system:
        turns.insert(0, Message("system", (TextPart("Be brief."),)))
    return Example(str(number), tuple(turns), f"made:{number}", (answer,))


def test_an_instruction_ends_what_the_user_says() -> None:
    asked = with_instruction(row("blue", 3, system=True), "Answer with a colour.")
    assert [turn.role for turn in asked.messages] == ["system", "user", "assistant"]
    assert asked.messages[1].text == "What is 3?\nAnswer with a colour."
    assert asked.answer == "blue"


def test_worked_examples_come_before_the_question_and_after_the_system_turn() -> None:
    asked = with_examples(
        row("blue", 3, system=True), [row("red", 1, system=True), row("green", 2)]
    )
    assert [turn.text for turn in asked.messages] == [
        "Be brief.", "What is 1?", "red", "What is 2?", "green", "What is 3?", "blue",
    ]  # fmt: skip
    assert (asked.id, asked.references) == ("3", ("blue",))


def test_images_stay_with_their_questions(questions: Callable[..., list[Example]]) -> None:
    first, second = questions(6, True)[1:3]
    asked = with_examples(second, [first])
    assert asked.images == (*first.images, *second.images)
    kinds = [type(part) for turn in asked.messages if turn.role == "user" for part in turn.parts]
    assert kinds.count(ImagePart) == len(asked.images)


def test_examples_of_different_answers_are_shown_if_there_are_any() -> None:
    rows = [row("no", 0), row("no", 1), row("yes", 2)]
    assert [one.answer for one in worked_examples(rows)] == ["no", "yes"]
    assert [one.id for one in worked_examples(rows[:2])] == ["0", "1"]


def test_instructions_by_metric_and_by_answers() -> None:
    assert format_instruction("option", [row("A")]) == "Answer with the letter of the right option."
    few = [row("red"), row("blue"), row("red")]
    assert format_instruction("exact", few) == "Answer with one of: red, blue."
    many = [row(f"word{number}") for number in range(20)]
    told = format_instruction("exact", many)
    assert told == "Answer with a word or a short phrase, such as: word0, word1, word2."


@given(
    st.lists(st.sampled_from(["", "a", "b", "c", "d"]), min_size=1, max_size=60), st.integers(1, 40)
)
def test_no_cluster_is_torn_and_no_row_lost(clusters: list[str], first: int) -> None:
    one, other = split_clusters(numbered(clusters), clusters, first)
    assert sorted((*one, *other)) == list(range(len(clusters)))
    named = [{clusters[place] for place in part} - {""} for part in (one, other)]
    assert not named[0] & named[1]
    assert other


def test_about_as_many_as_asked_and_half_at_most() -> None:
    assert len(split_clusters(numbered([""] * 120), [""] * 120, 32)[0]) == 32
    assert len(split_clusters(numbered([""] * 10), [""] * 10, 32)[0]) == 5
    assert split_clusters(numbered(["same"] * 10), ["same"] * 10, 4) == ((), tuple(range(10)))


def test_classes_in_turn_are_all_among_the_rows_set_apart() -> None:
    """Every fourth row of these is of one class: an even stride would see no other."""
    ids = numbered([""] * 128)
    chosen, _ = split_clusters(ids, [""] * 128, 32)
    by_class = Counter(place % 4 for place in chosen)
    assert min(by_class[one] for one in range(4)) >= 3
    grouped = [f"image {place // 2}" for place in range(128)]  # classes change with the image
    chosen, _ = split_clusters(ids, grouped, 32)
    assert {place // 2 % 4 for place in chosen} == {0, 1, 2, 3}


def test_the_same_rows_are_set_apart_in_any_order_and_on_any_machine() -> None:
    ids = numbered([""] * 12)
    chosen = {ids[place] for place in split_clusters(ids, [""] * 12, 4)[0]}
    back = [*reversed(ids)]
    assert {back[place] for place in split_clusters(back, [""] * 12, 4)[0]} == chosen
    assert chosen == {"4", "5", "9", "12"}


def numbered(clusters: list[str]) -> list[str]:
    return [str(number) for number in range(1, len(clusters) + 1)]
