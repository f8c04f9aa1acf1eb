"""Target skills, held-out abilities and alignment pictures as narrowtune's files.

    python prepare_data.py --parts parts --data FOLDER --out data

`parts` comes from fetch.py (CIFAR-10, emoji). FOLDER holds three public data sets as released:

    bccd/     Annotations, ImageSets/Main, JPEGImages      cells, counted        (target)
    nlvr/     dev.json, images                             true or false scenes  (target)
    tabmwp/   problems_dev1k.json, problems_test1k.json, tables                  (held out)

Nothing stands in two halves: emoji are tested on one vendor's drawings and taught on three others',
cells keep the release's split, sentences and words are split whole, CIFAR-10 keeps its own test.
"""

from __future__ import annotations

import argparse
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from pictures import (
    CIFAR10,
    FINE,
    TAUGHT,
    UNSEEN,
    Emoji,
    cifar,
    drawn_by,
    emoji,
    words,
    written,
)
from PIL import Image
from siblings import sibling

from narrowtune.data.images import pixel_digest
from narrowtune.pico import draw

rows_file = sibling("rows")
Row = dict[str, Any]

NAME_PHOTO = "What does this photo show? Answer with one word."
NAME_EMOJI = "What does this emoji show? Answer with its name."
PICK_EMOJI = "Which of these is it?"
LETTERS = "ABCD"
COUNT = "How many {} are in this picture? Answer with a number only."
CELLS = {"RBC": "red blood cells", "Platelets": "platelets"}  # white ones: nearly always one
JUDGE = "{} Is this true of the picture? Answer yes or no."
READ = "Which word is written here?"
WORD_SIDE = 112
TEST_SENTENCES, TEST_WORDS = 0.2, 0.25
PER_WORD = 6
CLOCKS = {"train": 1200, "test": 300}


class Album:
    """Writes pictures below the output folder and rows that name them."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def row(
        self,
        identity: str,
        picture: Image.Image,
        prompt: str,
        answer: str,
        choices: Sequence[str] = (),
    ) -> Row:
        """One question on one picture, which is saved under the row's name."""
        place = Path("images") / f"{identity}.png"
        (self.out / place).parent.mkdir(parents=True, exist_ok=True)
        picture.save(self.out / place)
        name = identity.replace("/", "-")
        row: Row = rows_file.chat(name, f"<image>\n{prompt}", answer, choices=choices)
        return row | {"images": [f"../{place}"]}

    def apart(self, train: Sequence[Row], test: Sequence[Row]) -> list[Row]:
        """The training rows whose picture no test row shows (NLVR holds a few twice)."""
        shown = {self._digest(row) for row in test}
        return [row for row in train if self._digest(row) not in shown]

    def _digest(self, row: Row) -> bytes:
        # A row's path is seen from its file, one folder down.
        return pixel_digest(self.out / Path(row["images"][0]).relative_to(".."))

    def write(self, rows: Sequence[Row], path: str) -> None:
        """A file one folder below the output folder, shuffled by its name."""
        order = rows_file.subsample(rows, None, sum(path.encode()))
        rows_file.write(order, self.out / path)


def photos(album: Album, parts: Path, split: str, count: int) -> list[Row]:
    """CIFAR-10, named by one of ten words; the words are the choices."""
    return [
        album.row(f"cifar10/{split}-{index}", picture, NAME_PHOTO, name, CIFAR10)
        for index, (picture, name) in enumerate(cifar(parts / "cifar10", split, count))
    ]


def names(album: Album, parts: Path, vendors: Sequence[str]) -> list[Row]:
    """Emoji, named; the choices are three others of the same kind where there are as many."""
    every = emoji(parts / "emoji")
    return [
        album.row(
            f"emoji/{vendor}-{Path(one.file).stem}",
            drawn_by(parts / "emoji", vendor, one),
            NAME_EMOJI,
            one.name,
            sorted([one.name, *alike(one, every, vendor)]),
        )
        for vendor in vendors
        for one in every
    ]


def letters(album: Album, parts: Path, vendors: Sequence[str]) -> list[Row]:
    """Which of four animals, plants or dishes of one kind an emoji shows: a letter."""
    every, rows = emoji(parts / "emoji", FINE), []
    for vendor in vendors:
        for one in every:
            options = [one.name, *alike(one, every, f"letters {vendor}")]
            Random(f"order {vendor} {one.file}").shuffle(options)
            lines = [f"{letter}. {name}" for letter, name in zip(LETTERS, options, strict=True)]
            prompt = "\n".join([PICK_EMOJI, *lines, "Answer with the letter."])
            answer = LETTERS[options.index(one.name)]
            picture = drawn_by(parts / "emoji", vendor, one)
            rows.append(
                album.row(
                    f"letters/{vendor}-{Path(one.file).stem}", picture, prompt, answer, LETTERS
                )
            )
    return rows


def alike(one: Emoji, every: Sequence[Emoji], salt: str) -> list[str]:
    """Three other names, of the same kind as far as there are, else of its category."""
    rng = Random(f"{salt} {one.file}")
    same = sorted({o.name for o in every if o.kind == one.kind} - {one.name})
    wider = sorted({o.name for o in every if o.category == one.category} - {one.name, *same})
    near = rng.sample(same, min(3, len(same)))
    return near + rng.sample(wider, 3 - len(near))


def cells(album: Album, folder: Path, split: str) -> list[Row]:
    """Blood smears with the number of cells of a kind, counted in the boxes of the release."""
    rows = []
    for name in (folder / "ImageSets" / "Main" / f"{split}.txt").read_text().split():
        boxes = ElementTree.parse(folder / "Annotations" / f"{name}.xml").findall("object/name")
        seen = [box.text for box in boxes]
        with Image.open(folder / "JPEGImages" / f"{name}.jpg") as picture:
            small = picture.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
        for kind, spoken in CELLS.items():
            prompt, count = COUNT.format(spoken), str(seen.count(kind))
            rows.append(album.row(f"cells/{name}-{kind}", small, prompt, count))
    return rows


def scenes(album: Album, folder: Path) -> tuple[list[Row], list[Row]]:
    """NLVR's sentences about drawn scenes, yes or no; a sentence is in one half alone."""
    lines = (folder / "dev.json").read_text(encoding="utf-8").splitlines()
    items = [json.loads(line) for line in lines]
    test = held(sorted({item["sentence"] for item in items}), TEST_SENTENCES, "sentences")
    halves: tuple[list[Row], list[Row]] = [], []
    for item in items:
        identity = item["identifier"]
        with Image.open(folder / "images" / f"dev-{identity}-0.png") as picture:
            scene = picture.convert("RGB")
        sentence = item["sentence"].strip().rstrip(".") + "."
        answer = "yes" if item["label"] == "true" else "no"
        prompt = JUDGE.format(sentence)
        row = album.row(f"scenes/{identity}", scene, prompt, answer, ("yes", "no"))
        halves[item["sentence"] in test].append(row)
    return halves


def reading(album: Album, parts: Path) -> tuple[list[Row], list[Row]]:
    """Words to be read; those of the test are never shown in training."""
    pool = words(parts / "emoji")
    test = held(pool, TEST_WORDS, "words")
    halves: tuple[list[Row], list[Row]] = [], []
    for word in pool:
        for number in range(1 if word in test else PER_WORD):
            picture = written(word, Random(f"{word} {number}"), WORD_SIDE)
            row = album.row(f"words/{word}-{number}", picture, READ, word)
            halves[word in test].append(row)
    return halves


def clocks(album: Album, split: str) -> list[Row]:
    """Clock faces as the pico world draws them, in steps of five minutes."""
    items = [draw("clock", split, index) for index in range(CLOCKS[split])]
    return [
        album.row(f"clock/{split}-{index}", item.image, item.question, item.answer)
        for index, item in enumerate(items)
    ]


def tables(album: Album, folder: Path) -> Iterator[Row]:
    """TabMWP's questions with choices, on pictures of tables."""
    for name in ("dev1k", "test1k"):
        problems = json.loads((folder / f"problems_{name}.json").read_text(encoding="utf-8"))
        for number, item in problems.items():
            if item["choices"]:
                with Image.open(folder / "tables" / f"{number}.png") as picture:
                    table = picture.convert("RGB")
                options = item["choices"]
                prompt = f"{item['question']} Answer with one of: {', '.join(options)}."
                yield album.row(f"tables/{number}", table, prompt, item["answer"], options)


def held(pool: Sequence[str], share: float, salt: str) -> set[str]:
    """The share of the pool that is tested on."""
    return set(Random(salt).sample(list(pool), max(1, round(share * len(pool)))))


def prepare(parts: Path, data: Path, out: Path, photo_count: int) -> None:
    """Every file of the example."""
    album = Album(out)
    taught = photos(album, parts, "train", photo_count) + names(album, parts, TAUGHT)
    album.write(taught, "alignment/train.jsonl")
    album.write(photos(album, parts, "test", 1000), "held_out/cifar10.jsonl")
    album.write(names(album, parts, (UNSEEN,)), "held_out/emoji_names.jsonl")
    album.write(list(tables(album, data / "tabmwp")), "held_out/tabmwp.jsonl")
    halves = {
        "emoji": (letters(album, parts, TAUGHT), letters(album, parts, (UNSEEN,))),
        "cells": tuple(cells(album, data / "bccd", split) for split in ("trainval", "test")),
        "scenes": scenes(album, data / "nlvr"),
        "words": reading(album, parts),
        "clock": (clocks(album, "train"), clocks(album, "test")),
    }
    for skill, (train, test) in halves.items():
        album.write(album.apart(train, test), f"{skill}/train.jsonl")
        album.write(test, f"{skill}/test.jsonl")


def main() -> None:
    arguments = _parse()
    wanted = [arguments.parts / p for p in ("cifar10", "emoji")]
    wanted += [arguments.data / p for p in ("bccd", "nlvr", "tabmwp")]
    missing = [str(folder) for folder in wanted if not folder.is_dir()]
    if missing:
        raise SystemExit(f"there is no {', no '.join(missing)} (see --help)")
    try:
        prepare(arguments.parts, arguments.data, arguments.out, arguments.photos)
    except (OSError, ValueError, KeyError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", type=Path, required=True, help="the folder of fetch.py")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--photos", type=int, default=3000, help="CIFAR-10 for alignment (3000)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
