"""The world draws the same from the same seed, and no picture twice."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from narrowtune.errors import InputError
from narrowtune.pico import HELD_OUT, METRICS, TARGETS, Item, draw, picture, write
from narrowtune.pico.canvas import COLOURS
from narrowtune.pico.icons import ICONS
from narrowtune.pico.nature import TISSUES
from narrowtune.pico.pages import PAGE_WORDS, SIGN_WORDS

TASKS = (*HELD_OUT, *TARGETS)
THING = "|".join(ICONS)
HUE = "|".join(COLOURS)
FORMATS = {
    "relations": THING,
    "charts": HUE,
    "documents": "|".join(PAGE_WORDS),
    "infographics": r"\d",
    "scenes": rf"{HUE}|day|night",
    "science": "[ABC]",
    "choices": "[ABCD]",
    "captions": rf"There is a ({HUE}) ({THING}) (to the left of|above) a ({HUE}) ({THING})\.",
    "existence": "yes|no",
    "birds": "[ABCD]",
    "counting": "[1-9]",
    "medical": rf"yes|no|eosin|azure|{'|'.join(TISSUES)}",
    "reading": "|".join(SIGN_WORDS),
    "clock": r"(0[1-9]|1[0-2]):[0-5][05]",
}


def fingerprint(item: Item) -> str:
    return hashlib.sha256(item.image.tobytes()).hexdigest()


def test_nine_held_out_and_five_targets_each_with_a_metric() -> None:
    assert (len(HELD_OUT), len(TARGETS)) == (9, 5)
    assert set(METRICS) == set(TASKS)
    assert set(METRICS.values()) == {"exact", "option", "number", "clock", "yes_no"}


@pytest.mark.parametrize("task", TASKS)
def test_same_arguments_same_item(task: str) -> None:
    one, two = draw(task, "test", 7, seed=3), draw(task, "test", 7, seed=3)
    assert fingerprint(one) == fingerprint(two)
    assert (one.question, one.answer) == (two.question, two.answer)


def test_same_item_in_another_process() -> None:
    program = (
        "import hashlib; from narrowtune.pico import draw;"
        "i = draw('scenes', 'train', 5); print(hashlib.sha256(i.image.tobytes()).hexdigest())"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert told.stdout.strip() == fingerprint(draw("scenes", "train", 5))


@pytest.mark.parametrize("task", TASKS)
def test_no_image_comes_twice_in_any_stream(task: str) -> None:
    streams = [("train", 0), ("test", 0), ("train", 1)]
    prints = [fingerprint(draw(task, s, i, seed)) for s, seed in streams for i in range(70)]
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize("task", TASKS)
def test_items_have_the_size_and_the_answer_format_of_the_task(task: str) -> None:
    items = [draw(task, "train", i) for i in range(60)]
    assert {(i.image.size, i.image.mode) for i in items} == {((84, 84), "RGB")}
    for item in items:
        assert re.fullmatch(FORMATS[task], item.answer), (task, item.answer)
        if METRICS[task] == "option":
            assert f"\n{item.answer}. " in item.question
    assert len({item.answer for item in items}) > 1


def test_yes_and_no_are_balanced() -> None:
    answers = [draw("existence", "test", i).answer for i in range(300)]
    assert 110 < answers.count("yes") < 190


def test_counting_counts_what_is_drawn() -> None:
    for index in range(40):
        drawn = picture("counting", "train", index)
        ((question, answer),) = drawn.questions
        things = [thing for thing in drawn.cells["thing"] if thing]
        assert str(max(things.count(thing) for thing in set(things))) >= answer
        assert int(answer) in {things.count(thing) for thing in set(things)}, question


def test_written_rows_parse_and_point_at_images(tmp_path: Path) -> None:
    path = write(tmp_path, "clock", "test", 5, seed=2)
    assert path == tmp_path / "clock" / "test.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 5
    assert len({row["id"] for row in rows}) == 5
    for index, row in enumerate(rows):
        user, assistant = row["messages"]
        image, text = user["content"]
        item = draw("clock", "test", index, seed=2)
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        assert (text["text"], assistant["content"]) == (item.question, item.answer)
        with Image.open(path.parent / image["image"]) as stored:
            assert stored.tobytes() == item.image.tobytes()


def test_unknown_words_name_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'counting'"):
        draw("countin", "train", 0)
    with pytest.raises(InputError, match="did you mean 'train'"):
        write(tmp_path, "clock", "trian", 1)


def test_drawing_needs_no_torch() -> None:
    program = "import sys, narrowtune.pico; assert not {'torch', 'transformers'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
