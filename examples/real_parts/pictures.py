"""Real pictures as their packages hold them: CIFAR-10's sheets, the emoji of four vendors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

VENDORS = ("apple", "google", "twitter", "facebook")
TAUGHT, UNSEEN = VENDORS[:3], VENDORS[3]
"""Whose drawings are trained on, and whose never are."""

CIFAR10 = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
CIFAR_SIDE = 32
NAMED = ("Animals & Nature", "Food & Drink", "Activities", "Travel & Places", "Objects")
FINE = NAMED[:2]
"""Emoji categories whose pictures show what their name says; of `FINE`, kinds that look alike."""

LONGEST_NAME = 3  # words; longer ones describe rather than name
Colour = tuple[int, int, int]


class Emoji(NamedTuple):
    """One emoji: its English name, its kind (`animal-bird`, say), its file's name."""

    name: str
    category: str
    kind: str
    file: str


def emoji(folder: Path, categories: tuple[str, ...] = NAMED) -> list[Emoji]:
    """The emoji of these categories that all four vendors draw, in the source's order.

    Args:
        folder: Holds `emoji.json` and, per vendor, a folder of PNG files.
        categories: Names as in `emoji.json`.
    """
    found = []
    for item in json.loads((folder / "emoji.json").read_text(encoding="utf-8")):
        drawn = all(item[f"has_img_{vendor}"] for vendor in VENDORS)
        told = item["category"] in categories and item["subcategory"] != "time"
        if drawn and told and len(item["name"].split()) <= LONGEST_NAME:
            kind = item["subcategory"]
            found.append(Emoji(item["name"].lower(), item["category"], kind, item["image"]))
    return found


def drawn_by(folder: Path, vendor: str, one: Emoji) -> Image.Image:
    """A vendor's drawing on white: without a ground, transparent pixels would turn black."""
    with Image.open(folder / vendor / one.file) as picture:
        drawing = picture.convert("RGBA")
    ground = Image.new("RGBA", drawing.size, "white")
    ground.alpha_composite(drawing)
    return ground.convert("RGB")


def cifar(folder: Path, split: str, count: int) -> Iterator[tuple[Image.Image, str]]:
    """The first `count` photographs of CIFAR-10's `train` or `test`, with their class's name."""
    # The package's own spelling of its files.
    labels: list[int] = json.loads((folder / f"{split}_lables.json").read_text(encoding="utf-8"))
    sheets = ["test_batch"] if split == "test" else [f"data_batch_{n}" for n in range(1, 6)]
    start = 0
    for sheet in sheets:
        if start >= count:
            return
        with Image.open(folder / f"{sheet}.png") as picture:
            rows = np.asarray(picture).reshape(-1, CIFAR_SIDE, CIFAR_SIDE, 3)
        names = labels[start : min(count, start + len(rows))]
        for pixels, label in zip(rows, names, strict=False):
            yield Image.fromarray(pixels), CIFAR10[label]
        start += len(rows)


def written(word: str, rng: Random, side: int = 112) -> Image.Image:
    """A word on a plain ground: its size, place, colours and slight turn drawn by `rng`."""
    ground, ink = contrast(rng)
    picture = Image.new("RGB", (side, side), ground)
    size = rng.uniform(0.62, 0.95) * side / max(1.0, ImageFont.load_default(100).getlength(word))
    font = ImageFont.load_default(100 * min(size, 0.3))
    left, top, right, bottom = font.getbbox(word)
    mask = Image.new("L", (side, side))
    place = (
        rng.uniform(0.02 * side, 0.98 * side - (right - left)) - left,
        rng.uniform(0.2 * side, 0.8 * side - (bottom - top)) - top,
    )
    ImageDraw.Draw(mask).text(place, word, fill=255, font=font)
    mask = mask.rotate(rng.uniform(-6, 6), resample=Image.Resampling.BICUBIC)
    picture.paste(Image.new("RGB", (side, side), ink), mask=mask)
    return picture


def contrast(rng: Random) -> tuple[Colour, Colour]:
    """A light ground with dark ink, or the other way round."""
    light = tuple(rng.randint(190, 255) for _ in range(3))
    dark = tuple(rng.randint(0, 90) for _ in range(3))
    pair: Any = (light, dark) if rng.random() < 0.5 else (dark, light)
    return pair


def words(folder: Path) -> list[str]:
    """Words of four to seven letters in the emoji's names, sorted: what is written and read."""
    names = {word for one in emoji(folder) for word in one.name.split()}
    return sorted(
        word for word in names if word.isascii() and word.isalpha() and 4 <= len(word) <= 7
    )
