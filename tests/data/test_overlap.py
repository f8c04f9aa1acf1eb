"""What counts as shared between test and training, and what only looks alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from narrowtune import pico
from narrowtune.data import Example, read_examples
from narrowtune.data.overlap import Overlap, find_overlaps

Rows = Callable[..., list[Example]]


def chat(*turns: str, system: str = "", **keys: Any) -> dict[str, Any]:
    """Question, answer, question, answer ..."""
    roles = [("user", "assistant")[place % 2] for place in range(len(turns))]
    messages = [{"role": r, "content": t} for r, t in zip(roles, turns, strict=True)]
    return {
        "messages": [*([{"role": "system", "content": system}] if system else []), *messages]
    } | keys


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    """Writes rows as a data file and reads them."""

    def write(name: str, *given: dict[str, Any]) -> list[Example]:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in given))
        return read_examples(path)

    return write


def found(train: Sequence[Example], test: Sequence[Example]) -> dict[str, list[tuple[int, int]]]:
    """The kinds shared, each with its (test line, training line) pairs."""
    overlaps = find_overlaps({"skill": train}, {"task": test})

    def line(source: str) -> int:
        return int(source.rpartition(":")[2])

    return {one.kind: [(line(test), line(train)) for test, train in one.places] for one in overlaps}


@pytest.mark.parametrize(
    ("taught", "asked"),
    [
        ("Where is my card?", "where is  my card"),
        ("Where is “Z”?", 'Where is "z" ?'),
        ("How many?\nAnswer with a number.", "How many?\nAnswer with a number."),
        ("Line one\n\nline two", "Line one\nline two"),
        ("What is ½?", "What is 1⁄2?"),
    ],
)
def test_the_same_words_are_the_same_question(rows: Rows, taught: str, asked: str) -> None:
    train = rows("train", chat("Who?", "x"), chat(taught, "y"))
    assert found(train, rows("test", chat(asked, "z"))) == {"questions": [(1, 2)]}


@pytest.mark.parametrize(
    ("taught", "asked"),
    [
        ("What is 2 + 3?", "What is 2 - 3?"),
        ("What is 1.5 x 2?", "What is 15 x 2?"),
        ("What is .5 x 2?", "What is 5 x 2?"),
        ("Is it a dog?", "Is it a dogma?"),
        ("What is in France?", "What is in Spain?"),
    ],
)
def test_other_words_are_another_question(rows: Rows, taught: str, asked: str) -> None:
    assert found(rows("train", chat(taught, "x")), rows("test", chat(asked, "x"))) == {}


def test_a_hint_that_all_of_a_file_ends_with_is_no_part_of_its_questions(rows: Rows) -> None:
    train = rows("train", *(chat(f"{name} has 3.\nOnly a number.", "3") for name in ("Ann", "Bob")))
    test = rows("test", *(chat(f"Think.\n{name} has 3.", "3") for name in ("Bob", "Cyd")))
    assert found(train, test) == {"questions": [(1, 2)]}


def test_a_hint_on_some_rows_alone_hides_no_question_that_has_it_too(rows: Rows) -> None:
    train = rows("train", chat("Ann has 3.\nOnly a number.", "3"), chat("Bob has 3.", "3"))
    test = rows("test", *(chat(f"{name} has 3.\nOnly a number.", "3") for name in ("Ann", "Cyd")))
    assert found(train, test) == {"questions": [(1, 1)]}
    assert found(test, train) == {"questions": [(1, 1)]}


def test_lines_may_be_broken_elsewhere(rows: Rows) -> None:
    train = rows("train", chat("A tale\nof two.\nWho\nis it?", "x"), chat("Why?", "y"))
    assert found(train, rows("test", chat("A tale of two.\nWho is it?", "z"))) == {
        "questions": [(1, 1)]
    }


def test_a_question_that_all_of_a_file_ask_is_its_question(rows: Rows) -> None:
    train = rows("train", chat("Say a word.", "x"), chat("Say a word.", "y"))
    assert found(train, rows("test", chat("Say a number.", "1"), chat("Say a number.", "2"))) == {}
    assert found(train, rows("test", chat("Say a word.", "z"))) == {"questions": [(1, 1)]}


def test_other_choices_make_another_question(rows: Rows) -> None:
    train = rows("train", chat("Which is a bird?", "owl", choices=["owl", "cat"]))

    def asked(answer: str, **keys: Any) -> dict[str, Any]:
        return found(train, rows("test", chat("Which is a bird?", answer, **keys)))

    assert asked("jay", choices=["jay", "cat"]) == {}
    assert asked("owl", choices=["cat", "Owl", "owl"]) == {"questions": [(1, 1)]}
    assert asked("owl") == {"questions": [(1, 1)]}
    bare = rows("train", chat("Which is a bird?", "owl"))
    test = rows("test", chat("Which is a bird?", "jay", choices=["jay", "cat"]))
    assert found(bare, test) == {"questions": [(1, 1)]}


def test_every_answered_turn_is_taught_in_its_context(rows: Rows) -> None:
    train = rows("train", chat("Who?", "Ann", "And why?", "x", system="Be brief."))
    assert found(train, rows("test", chat("Who?", "y"))) == {"questions": [(1, 1)]}
    assert found(train, rows("test", chat("And why?", "y"))) == {}
    same = rows("test", chat("Who?", "Ann", "And why?", "y", system="Be verbose."))
    assert found(train, same) == {"questions": [(1, 1)]}


def shown(picture: str, question: str, **keys: Any) -> dict[str, Any]:
    return chat(f"<image>\n{question}", "3", image=picture, **keys)


def test_a_question_of_another_picture_is_another(rows: Rows, picture: Callable[..., Path]) -> None:
    picture("red.png")
    picture("blue.png", seed=1)
    train = rows("train", shown("red.png", "How many?"))
    assert found(train, rows("test", shown("blue.png", "How many?"))) == {}
    assert found(train, rows("test", chat("How many?", "3"))) == {}
    assert found(train, rows("test", shown("red.png", "What colour?"))) == {"images": [(1, 1)]}
    both = {"images": [(1, 1)], "questions": [(1, 1)]}
    assert found(train, rows("test", shown("red.png", "how many"))) == both


def test_a_picture_asked_of_in_a_later_turn(rows: Rows, picture: Callable[..., Path]) -> None:
    picture("red.png")
    talk = chat("<image>\nWhat is it?", "a dot", "How many?", "1", image="red.png")
    test = rows("test", shown("red.png", "How many?"))
    assert found(rows("train", talk), test)["questions"] == [(1, 1)]


@pytest.mark.parametrize("name", ["copy.png", "again.png", "again.bmp", "again.webp"])
def test_the_same_pixels_are_the_same_picture(
    rows: Rows, picture: Callable[..., Path], name: str
) -> None:
    first = picture("first.png")
    with Image.open(first) as image:
        changed = image.copy()
        changed.putpixel((1, 2), (1, 2, 3))
        changed.save(first.with_name("other.png"))
        lossless = {"lossless": True} if name.endswith("webp") else {"compress_level": 0}
        image.save(first.with_name(name), **({} if name.endswith("bmp") else lossless))
    if name == "copy.png":
        first.with_name(name).write_bytes(first.read_bytes())
    train = rows("train", shown("other.png", "How many?"), shown("first.png", "How many?"))
    assert found(train, rows("test", shown(name, "What?"))) == {"images": [(1, 2)]}


def test_jpegs_are_told_apart_and_by_their_turn(rows: Rows, tmp_path: Path) -> None:
    gradient = Image.linear_gradient("L").convert("RGB")
    gradient.save(tmp_path / "a.jpg", quality=90)
    with Image.open(tmp_path / "a.jpg") as image:
        image.save(tmp_path / "progressive.jpg", quality="keep", progressive=True)
        turned = image.getexif()
        turned[0x0112] = 3  # upside down
        image.save(tmp_path / "turned.jpg", quality="keep", exif=turned)
        image.save(tmp_path / "decoded.png")
    gradient.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "other.jpg", quality=90)
    assert (tmp_path / "a.jpg").read_bytes() != (tmp_path / "progressive.jpg").read_bytes()
    train = rows("train", shown("a.jpg", "How many?"))
    for name, same in (("progressive", 1), ("turned", 0), ("other", 0)):
        assert len(found(train, rows("test", shown(f"{name}.jpg", "What?")))) == same
    png = rows("test", shown("decoded.png", "What?"), shown("other.jpg", "What?"))
    assert found(train, png) == {"images": [(1, 1)]}


def test_jpegs_that_differ_in_detail_alone_are_told_apart(rows: Rows, tmp_path: Path) -> None:
    """At an eighth of their size these bars are the same grey."""
    for name, turned in (("upright", False), ("lying", True)):
        bars = Image.new("L", (64, 64))
        for x in range(64):
            for y in range(64):
                bars.putpixel((x, y), 255 * ((y if turned else x) % 2))
        bars.convert("RGB").save(tmp_path / f"{name}.jpg", quality=95)
    train = rows("train", shown("upright.jpg", "What?"))
    assert found(train, rows("test", shown("lying.jpg", "How?"))) == {}
    assert found(train, rows("test", shown("upright.jpg", "How?"))) == {"images": [(1, 1)]}


def test_only_images_of_a_shared_size_are_decoded(
    rows: Rows, picture: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture("small.png", size=(4, 4))
    picture("large.png", size=(8, 8))
    picture("other.png", size=(4, 4), seed=1)
    train = rows("train", shown("small.png", "What?"), shown("large.png", "What?"))
    test = rows("test", shown("other.png", "What?"))
    decoded: list[Path] = []

    def digest(path: Path, *, drafted: bool = False) -> bytes:
        decoded.append(path)
        return path.name.encode()

    monkeypatch.setattr("narrowtune.data.overlap.pixel_digest", digest)
    assert found(train, test) == {}
    assert {path.name for path in decoded} == {"small.png", "other.png"}


def test_counts_and_first_places(rows: Rows) -> None:
    train = rows("train", *(chat(f"Question {n}?", "x") for n in range(6)))
    test = rows("test", *(chat(f"Question {n}?", "x") for n in range(1, 9)))
    (overlap,) = find_overlaps({"skill": train, "idle": []}, {"task": test})
    assert (overlap.stage, overlap.task, overlap.rows, overlap.tested) == ("skill", "task", 5, 8)
    assert len(overlap.places) == 3
    told = str(overlap)
    assert told.startswith("5 of 8 test rows ask questions that skill trains on: ")
    assert told.endswith("test.jsonl:3 (as " + train[3].source + ") and 2 more")


def test_plain_data_goes_through_json() -> None:
    overlap = Overlap("images", "skill", "task", 1, 2, (("a:1", "b:2"),))
    plain = overlap.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["places"] == [["a:1", "b:2"]]


def test_bundled_tasks_share_nothing(tmp_path: Path) -> None:
    taught, tested = {}, {}
    for task in pico.METRICS:
        pico.write(tmp_path, task, "train", 24)
        pico.write(tmp_path, task, "test", 12)
        taught[task] = read_examples(tmp_path / task / "train.jsonl")
        tested[task] = read_examples(tmp_path / task / "test.jsonl")
    assert find_overlaps(taught, tested) == []
