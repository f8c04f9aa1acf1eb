"""Every format read, every wrong input told with its file and line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from narrowtune.data import Example, ImagePart, TextPart, check_file, read_checked, read_examples
from narrowtune.data.encoding import encode
from narrowtune.data.formats import shorten
from narrowtune.errors import InputError
from narrowtune.models.processing import Processing

Picture = Callable[..., Path]


def ask(*content: Any, answer: Any = "42", **row: Any) -> dict[str, Any]:
    prompt = content[0] if len(content) == 1 and isinstance(content[0], str) else list(content)
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **row}


def llava(question: str, answer: str = "42", **row: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"conversations": turns, **row}


def jsonl(folder: Path, *rows: Any) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def array(folder: Path, *rows: Any, indent: int | None = 2) -> Path:
    path = folder / "data.json"
    path.write_text(json.dumps(list(rows), indent=indent))
    return path


def shape(example: Example) -> list[tuple[str, list[str]]]:
    def one(part: TextPart | ImagePart) -> str:
        return part.text if isinstance(part, TextPart) else f"image:{part.path.name}"

    return [(m.role, [one(part) for part in m.parts]) for m in example.messages]


IMAGE = {"type": "image"}
WORDS = {"type": "text", "text": "How many?"}


@pytest.mark.parametrize(
    "row",
    [
        ask({**IMAGE, "image": "a.png"}, WORDS),
        ask({**IMAGE, "path": "a.png"}, WORDS),
        ask({**IMAGE, "url": "a.png"}, WORDS),
        ask({"type": "image_url", "image_url": {"url": "a.png"}}, WORDS),
        ask(IMAGE, WORDS, images=["a.png"]),
        ask(IMAGE, WORDS, image="a.png"),
        ask(IMAGE, WORDS, images=[{"path": "a.png"}]),
        ask("<image>\nHow many?", images=["a.png"]),
        ask("<image>How many?", images="a.png"),
        ask("<image>\nHow many?", images=["a.png"], answer=[{"type": "text", "text": "42"}]),
        llava("<image>\nHow many?", image="a.png"),
        llava("<image>\nHow many?", images=["a.png"], id="x"),
    ],
)
def test_every_way_of_writing_one_sample(
    row: dict[str, Any], tmp_path: Path, picture: Picture, family: Callable[[str], Processing]
) -> None:
    """All forms read the same, from JSONL and from an array, and encode to the same tokens."""
    picture("a.png")
    expected = [("user", ["image:a.png", "How many?"]), ("assistant", ["42"])]
    for path in (jsonl(tmp_path, row), array(tmp_path, row), array(tmp_path, row, indent=None)):
        (example,) = read_examples(path)
        assert shape(example) == expected
        assert example.references == ("42",) and example.choices == ()
    reference = jsonl(tmp_path, ask(IMAGE, WORDS, image="a.png"))
    processing = family("llava_onevision")
    first, second = encode(example, processing), encode(read_examples(reference)[0], processing)
    assert (first.input_ids, first.supervised) == (second.input_ids, second.supervised)


def test_marks_and_bare_blocks_are_filled_in_order(tmp_path: Path, picture: Picture) -> None:
    for name in ("a.png", "b.png", "c.png"):
        picture(name)
    text = {"type": "text", "text": "this <image> or that\n<image>"}
    (example,) = read_examples(
        jsonl(tmp_path, ask(IMAGE, text, images=["b.png", "a.png", "c.png"]))
    )
    assert shape(example)[0] == (
        "user",
        ["image:b.png", "this ", "image:a.png", " or that", "image:c.png"],
    )


def test_sources_ids_answers_and_choices(tmp_path: Path) -> None:
    rows = [
        ask("Which?", answer="B", id="q1", choices=["A", "B"], answers=["B", "b"]),
        ask("Which?", answer="B", references=["C"]),
    ]
    path = jsonl(tmp_path, rows[0], "", rows[1])
    first, second = read_examples(path)
    assert (first.id, first.choices, first.references) == ("q1", ("A", "B"), ("B", "b"))
    assert (second.id, second.references) == ("3", ("B", "C"))
    assert (first.source, second.source) == (f"{path}:1", f"{path}:3")
    assert [e.id for e in read_examples(path, limit=1)] == ["q1"]
    in_array = read_examples(array(tmp_path, *rows))
    assert in_array[1].source.startswith(f"{tmp_path / 'data.json'}:")
    line = int(in_array[1].source.split(":")[-1].split()[0])
    assert (tmp_path / "data.json").read_text().splitlines()[line - 1].strip() == "{"
    assert in_array[1].source.endswith("(item 2)")


def test_an_image_folder_of_ones_own(tmp_path: Path, picture: Picture) -> None:
    path = picture("a.png")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    path.rename(folder / "a.png")
    data = jsonl(tmp_path, ask("<image>What?", image="a.png"))
    (example,) = read_examples(data, image_root=folder)
    assert example.images == (folder / "a.png",)
    assert "does not exist" in check_file(data)[0]
    assert "image folder" in check_file(data, tmp_path / "nowhere")[0]


SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "How many?"}
ANSWER = {"role": "assistant", "content": "42"}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ('{"messages": [', "broken JSON: "),
        ("[1, 2]x", "broken JSON: "),
        ('"text"', "the row is a str; wanted an object"),
        ({"question": "x", "answer": "y"}, "its keys are 'question', 'answer'"),
        ({"messages": "x"}, "'messages' is no list of objects"),
        ({"messages": [USER]}, "no assistant message"),
        ({"messages": [USER, ANSWER, USER]}, "ends with a user message"),
        ({"messages": [SYSTEM, ANSWER]}, "no user message"),
        ({"messages": []}, "no assistant message"),
        ({"messages": [{"role": "usr", "content": "x"}, ANSWER]}, "did you mean 'user'"),
        ({"messages": [{"role": "user"}, ANSWER]}, "a user message without text"),
        ({"messages": [{"role": "user", "content": 3}, ANSWER]}, "content is a int"),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, "an answer needs words"),
        ({"messages": [USER, {"role": "assistant"}]}, "an answer needs words"),
        (llava("What?", ""), "an answer needs words"),
        (llava("<image>\nWhat?"), "1 <image> mark but 0 images"),
        (llava("<image>What<image>?", image="a.png"), "2 <image> marks but 1 image"),
        (ask("What?", images=["a.png"]), "0 <image> marks but 1 image"),
        (ask("<image>What?", images=["a.png", "a.png"]), "1 <image> mark but 2 images"),
        (ask("<image>What?", image="gone.png"), "gone.png does not exist"),
        (ask("<image>What?", image="cut.png"), "cut.png cannot be read: "),
        (ask("<image>What?", image="cut.jpg"), "cut.jpg cannot be read: "),
        (ask("<image>What?", image="empty.png"), "empty.png is empty or no image"),
        (ask("<image>What?", image="https://x.org/a.png"), "download it"),
        (ask("<image>What?", image=7), "an image is given as 7; wanted a path"),
        (ask({"type": "audio"}, WORDS), "unknown content block"),
        (ask("What?", answer="see <image>", image="a.png"), "only prompts may"),
        (ask("Which?", answer="C", choices=["A", "B"]), "'C' is not among the choices 'A', 'B'"),
        (ask("What \ud83d?"), "half a character"),
        (ask("Which?", answers=[""]), "'answers' must be a list of non-empty strings"),
    ],
)
def test_every_wrong_row_is_told_with_its_line(
    row: Any, problem: str, tmp_path: Path, picture: Picture
) -> None:
    whole = picture("a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    whole = picture("b.jpg", (300, 300)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    path = jsonl(tmp_path, ask("fine", id="taken"), row, ask("fine too"))
    told = check_file(path)
    assert told[0].startswith(f"{path}:2: ") and problem in told[0], told
    assert len(told) <= 2
    with pytest.raises(InputError):
        read_examples(path)


def test_ids_must_differ_only_where_answers_are_paired(tmp_path: Path, picture: Picture) -> None:
    """LLaVA's training data has an image's id on each of its rows."""
    picture("a.png")
    rows = [llava(f"<image>\n{n}?", str(n), id="a", image="a.png") for n in range(3)]
    for path in (jsonl(tmp_path, *rows), array(tmp_path, *rows)):
        assert [example.answer for example in read_examples(path)] == ["0", "1", "2"]
        assert check_file(path) == []
        with pytest.raises(InputError) as caught:
            read_examples(path, unique_ids=True)
        second, third = caught.value.problems
        assert second.startswith(f"{path}:") and f"id 'a' is taken by {path}:" in third
        assert [second, third] == check_file(path, unique_ids=True)
        assert len(read_examples(path, limit=1, unique_ids=True)) == 1


def too_long(rows: list[Example]) -> int:
    told = [f"{row.source}: too long" for row in rows if len(row.prompt[0].text) > 5]
    if told:
        raise InputError(told)
    return len(rows)


def test_a_wrong_row_does_not_hide_what_is_wrong_with_sound_ones(tmp_path: Path) -> None:
    path = jsonl(tmp_path, ask("far too long"), ask("x", image="gone.png"), ask("y", id="1"))
    with pytest.raises(InputError) as caught:
        read_checked(path, too_long, unique_ids=True)
    places = [problem.removeprefix(f"{path}:")[0] for problem in caught.value.problems]
    assert places == ["2", "2", "3", "1"]  # no image, no mark for it, the id of line 1, its length
    with pytest.raises(InputError, match="too long") as caught:
        read_checked(jsonl(tmp_path, ask("far too long"), ask("x")), too_long)
    assert len(caught.value.problems) == 1
    assert read_checked(jsonl(tmp_path, ask("x"), ask("y")), too_long) == 2
    assert read_checked(jsonl(tmp_path, ask("x"), ask("y")), too_long, limit=1) == 1


def test_a_file_without_sound_rows_is_not_checked_further(tmp_path: Path) -> None:
    def refuse(rows: list[Example]) -> None:
        raise InputError("the task has no examples to score")

    with pytest.raises(InputError) as caught:
        read_checked(jsonl(tmp_path, {}), refuse)
    assert len(caught.value.problems) == 1 and "neither format" in str(caught.value)


def test_a_list_cut_twice_still_counts_right(tmp_path: Path) -> None:
    def refuse(rows: list[Example]) -> None:
        raise InputError(shorten([f"{row.source}: no" for row in rows]))

    path = jsonl(tmp_path, *[ask("x")] * 50, *[{}] * 7)
    with pytest.raises(InputError) as caught:
        read_checked(path, refuse)
    assert len(caught.value.problems) == 21
    assert caught.value.problems[-1] == "and 37 more problems"
    assert shorten(["a"] * 21)[-1] == "and 1 more problem"
    assert shorten(["a"] * 20) == ["a"] * 20


def test_all_problems_at_once(tmp_path: Path) -> None:
    bad = {"messages": [{"role": "usr", "content": "<image>"}, {"role": "assistant"}]}
    path = jsonl(tmp_path, bad, ask("fine"), ask("", answer=""))
    told = check_file(path)
    assert [p.removeprefix(f"{path}:")[0] for p in told] == ["1", "1", "1", "3", "3"]


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    path = jsonl(tmp_path, *[ask("", answer="x")] * 50)
    with pytest.raises(InputError) as caught:
        read_examples(path)
    assert len(caught.value.problems) == 21
    assert caught.value.problems[-1] == "and 30 more problems"
    assert len(check_file(path)) == 50


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it holds no examples"),
        ("[]", "it holds no examples"),
        ('[{"id": 1},\n {"id": 2]', ":2: broken JSON"),
        ('[{"id": 1}', ":1: broken JSON: the array does not end well"),
        ("question,answer\n1,2\n", ":1: broken JSON"),
        (b"\x93\x00\xff", "it is no UTF-8 text"),
    ],
)
def test_files_that_are_no_data(text: str | bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    assert any(f"{path}" in told and problem in told for told in check_file(path))


def test_a_missing_file(tmp_path: Path) -> None:
    assert "No such file" in check_file(tmp_path / "gone.jsonl")[0]


def test_a_broken_image_is_no_wrong_number_of_marks(tmp_path: Path) -> None:
    path = jsonl(tmp_path, ask("<image>What?", image="gone.png"))
    assert len(check_file(path)) == 1


def test_checking_needs_no_torch() -> None:
    code = (
        "import sys, narrowtune.data, narrowtune.cli.data; "
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
