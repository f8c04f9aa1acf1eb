"""The world of pictures: fourteen tasks that draw themselves from a seed, and their files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from narrowtune.errors import InputError, nearest
from narrowtune.pico import nature, objects, pages
from narrowtune.pico.picture import Picture

Drawer = Callable[[Random], Picture]

DRAWERS: dict[str, Drawer] = {
    "relations": objects.relations,
    "charts": pages.charts,
    "documents": pages.documents,
    "infographics": pages.infographics,
    "scenes": objects.scenes,
    "science": nature.science,
    "choices": objects.choices,
    "captions": objects.captions,
    "existence": objects.existence,
    "birds": nature.birds,
    "counting": objects.counting,
    "medical": nature.medical,
    "reading": pages.reading,
    "clock": pages.clock,
}
TARGETS: tuple[str, ...] = ("birds", "counting", "medical", "reading", "clock")
HELD_OUT: tuple[str, ...] = tuple(task for task in DRAWERS if task not in TARGETS)
METRICS: dict[str, str] = {
    "relations": "exact",
    "charts": "exact",
    "documents": "exact",
    "infographics": "number",
    "scenes": "exact",
    "science": "option",
    "choices": "option",
    "captions": "exact",
    "existence": "yes_no",
    "birds": "option",
    "counting": "number",
    "medical": "exact",
    "reading": "exact",
    "clock": "clock",
}
SPLITS: tuple[str, ...] = ("train", "test")


@dataclass(frozen=True)
class Item:
    """One example: an 84 x 84 RGB image, a question about it, and the answer."""

    image: Image.Image
    question: str
    answer: str


def picture(task: str, stream: str, index: int, seed: int = 0) -> Picture:
    """The `index`-th picture of a stream, with all its questions and facts.

    Every (task, stream, seed, index) has its own random generator, so streams share nothing.
    """
    return DRAWERS[task](Random(f"{task}/{stream}/{seed}/{index}"))


def draw(task: str, split: str, index: int, seed: int = 0) -> Item:
    """One example of a task, the same for the same arguments.

    Raises:
        InputError: If the task or the split is unknown.
    """
    _known("task", task, tuple(DRAWERS))
    _known("split", split, SPLITS)
    drawn = picture(task, split, index, seed)
    chooser = Random(f"question/{task}/{split}/{seed}/{index}")
    question, answer = chooser.choice(balanced(drawn.questions, chooser))
    return Item(drawn.image, question, answer)


def balanced(questions: tuple[tuple[str, str], ...], rng: Random) -> list[tuple[str, str]]:
    """The questions of one wording, the wording chosen first, so that none crowds out the rest."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for question, answer in questions:
        kinds.setdefault(question[:14], []).append((question, answer))
    return kinds[rng.choice(list(kinds))]


def write(folder: Path, task: str, split: str, count: int, seed: int = 0) -> Path:
    """Writes examples as JSONL with PNG images beside it.

    Args:
        folder: Where the task's own folder is made.
        task: One of `HELD_OUT` or `TARGETS`.
        split: "train" or "test".
        count: How many examples, from index 0.
        seed: Another seed gives other examples.

    Returns:
        The path of `<folder>/<task>/<split>.jsonl`.

    Raises:
        InputError: If the task or the split is unknown.
    """
    _known("task", task, tuple(DRAWERS))
    _known("split", split, SPLITS)
    home = Path(folder) / task
    (home / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(count):
        item = draw(task, split, index, seed)
        name = f"{split}-{seed}-{index:05d}"
        item.image.save(home / "images" / f"{name}.png")
        rows.append(json.dumps(_row(f"{task}-{name}", f"images/{name}.png", item)))
    path = home / f"{split}.jsonl"
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def _row(identity: str, image: str, item: Item) -> dict[str, Any]:
    """One line of the data file, in the `messages` format."""
    content = [{"type": "image", "image": image}, {"type": "text", "text": item.question}]
    return {
        "id": identity,
        "messages": [
            {"role": "user", "content": content},
            {"role": "assistant", "content": item.answer},
        ],
    }


def _known(what: str, word: str, known: tuple[str, ...]) -> None:
    if word not in known:
        raise InputError(f"unknown {what} {word!r}: {nearest(word, known)}")
