"""A drawing surface of 84 x 84 pixels, three by three cells of 28, with the marks used on it."""

from __future__ import annotations

import functools
import math
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Point = tuple[float, float]

SIDE = 84
CELLS = 3
CELL = SIDE // CELLS
SCALE = 2  # drawn twice as large, then halved: smooth edges

COLOURS: dict[str, Colour] = {
    "red": (214, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (235, 205, 30),
    "purple": (140, 50, 170),
    "orange": (245, 130, 25),
}


def shade(rng: Random, colour: Colour, spread: int = 18) -> Colour:
    """A colour near `colour`, each channel moved by at most `spread`."""
    red, green, blue = (max(0, min(255, c + rng.randint(-spread, spread))) for c in colour)
    return red, green, blue


def darker(colour: Colour, factor: float = 0.55) -> Colour:
    """The same hue with less light."""
    red, green, blue = (int(c * factor) for c in colour)
    return red, green, blue


def light(rng: Random) -> Colour:
    """A pale background colour."""
    return rng.randint(222, 255), rng.randint(222, 255), rng.randint(222, 255)


def centre(cell: int) -> Point:
    """The middle of a cell, in pixels; cells are numbered along the rows from the top left."""
    row, column = divmod(cell, CELLS)
    return (column + 0.5) * CELL, (row + 0.5) * CELL


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that Pillow carries, at a size in drawn pixels."""
    return ImageFont.load_default(size)


class Canvas:
    """An image being drawn; all coordinates are in final pixels (0 to 84)."""

    def __init__(self, background: Colour) -> None:
        self.image = Image.new("RGB", (SIDE * SCALE, SIDE * SCALE), background)
        self.pen = ImageDraw.Draw(self.image)

    def polygon(self, points: list[Point], fill: Colour) -> None:
        """A filled polygon."""
        self.pen.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=fill)

    def disc(self, at: Point, rx: float, ry: float, fill: Colour) -> None:
        """A filled ellipse with the half axes `rx` and `ry`."""
        x, y = at
        box = [(x - rx) * SCALE, (y - ry) * SCALE, (x + rx) * SCALE, (y + ry) * SCALE]
        self.pen.ellipse(box, fill=fill)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Colour) -> None:
        """A filled rectangle."""
        self.pen.rectangle([x0 * SCALE, y0 * SCALE, x1 * SCALE, y1 * SCALE], fill=fill)

    def line(self, start: Point, end: Point, fill: Colour, width: float = 1.0) -> None:
        """A straight stroke."""
        points = [start[0] * SCALE, start[1] * SCALE, end[0] * SCALE, end[1] * SCALE]
        self.pen.line(points, fill=fill, width=max(1, round(width * SCALE)))

    def arrow(self, start: Point, end: Point, fill: Colour) -> None:
        """A stroke with a head at its end."""
        self.line(start, end, fill, 1.0)
        angle = math.atan2(end[1] - start[1], end[0] - start[0])
        barbs = [
            (end[0] - 3 * math.cos(angle + turn), end[1] - 3 * math.sin(angle + turn))
            for turn in (-0.6, 0.6)
        ]
        self.polygon([end, *barbs], fill)

    def text(self, words: str, at: Point, size: float, fill: Colour, style: Style) -> None:
        """Words centred at a point, in one of the styles of lettering."""
        mask = style.render(words, size)
        x = round(at[0] * SCALE - mask.width / 2)
        y = round(at[1] * SCALE - mask.height / 2)
        self.image.paste(fill, (x, y), mask)

    def spell(self, words: str, at: Point, size: float, fill: Colour, style: Style) -> list[str]:
        """Writes like `text`, and tells which letters stand in each cell."""
        self.text(words, at, size, fill, style)
        face = font(round(size * SCALE))
        whole = face.getlength(words)
        angle = math.radians(-style.turn)
        found = [""] * (CELLS * CELLS)
        for place, letter in enumerate(words):
            middle = face.getlength(words[:place]) + face.getlength(letter) / 2 - whole / 2
            along = middle / SCALE * style.stretch
            x, y = at[0] + along * math.cos(angle), at[1] + along * math.sin(angle)
            column, row = (min(CELLS - 1, max(0, int(v // CELL))) for v in (x, y))
            found[row * CELLS + column] += letter.lower()
        return found

    def finish(self, rng: Random, noise: float = 8.0) -> Image.Image:
        """The picture at its final size, with a random amount of grain up to `noise`."""
        small = np.asarray(self.image.reduce(SCALE), dtype=np.float32)
        grain = np.random.default_rng(rng.getrandbits(63))
        level = rng.uniform(1.0, noise)
        noisy = small + level * grain.standard_normal(small.shape, dtype=np.float32)
        return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


class Style:
    """A manner of lettering: weight, slant, width and turn, chosen once per line of text."""

    def __init__(self, rng: Random, turn: float = 0.0) -> None:
        self.weight = rng.choice((0, 0, 1))
        self.slant = rng.choice((0.0, 0.0, 0.2))
        self.stretch = rng.uniform(0.94, 1.08)
        self.turn = rng.uniform(-turn, turn)

    def render(self, words: str, size: float) -> Image.Image:
        """The letters as a grey mask, cut to their bounding box."""
        face = font(round(size * SCALE))
        left, top, right, bottom = face.getbbox(words, stroke_width=self.weight)
        width, height = math.ceil(right - left), math.ceil(bottom - top)
        mask = Image.new("L", (width + 2, height + 2), 0)
        pen = ImageDraw.Draw(mask)
        pen.text((1 - left, 1 - top), words, fill=255, font=face, stroke_width=self.weight)
        mask = self._lean(mask)
        if self.turn:
            mask = mask.rotate(self.turn, Image.Resampling.BILINEAR, expand=True)
        return mask

    def _lean(self, mask: Image.Image) -> Image.Image:
        """The mask slanted to the right and stretched sideways."""
        extra = round(self.slant * mask.height)
        size = (round((mask.width + extra) * self.stretch), mask.height)
        matrix = (1 / self.stretch, self.slant, -extra, 0.0, 1.0, 0.0)
        method = Image.Transform.AFFINE
        return mask.transform(size, method, matrix, Image.Resampling.BILINEAR)
