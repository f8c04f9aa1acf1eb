"""What a drawing function returns: the image, what each cell shows, and what can be asked."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from PIL import Image

from narrowtune.pico.canvas import CELLS, COLOURS, Canvas, Colour, Point, centre, shade
from narrowtune.pico.icons import ICONS

Cells = dict[str, tuple[str, ...]]
NOTHING = ""


@dataclass(frozen=True)
class Picture:
    """A drawn image with everything that is known about it.

    Attributes:
        image: 84 x 84 RGB.
        questions: Every (question, answer) pair that the task asks of this image.
        cells: For each kind of fact, what each of the nine cells shows ("" for nothing). The
            vision tower is supervised with these in the first stage of pretraining.
    """

    image: Image.Image
    questions: tuple[tuple[str, str], ...]
    cells: Cells


def everywhere(value: str) -> tuple[str, ...]:
    """A fact about the whole image, said of each of its cells."""
    return (value,) * (CELLS * CELLS)


class Board:
    """Things placed in cells of a canvas, remembered as facts about those cells."""

    def __init__(self, rng: Random, background: Colour) -> None:
        self.rng = rng
        self.canvas = Canvas(background)
        self.things = [NOTHING] * (CELLS * CELLS)
        self.colours = [NOTHING] * (CELLS * CELLS)

    def place(self, cell: int, thing: str, colour: str, sizes: Point = (8, 12)) -> None:
        """Draws a thing somewhere near the middle of a cell, its radius between two sizes."""
        radius = self.rng.uniform(*sizes)
        room = max(0.5, 13.5 - radius)
        x, y = centre(cell)
        x, y = x + self.rng.uniform(-room, room), y + self.rng.uniform(-room, room)
        ICONS[thing](self.canvas, x, y, radius, shade(self.rng, COLOURS[colour]))
        self.things[cell], self.colours[cell] = thing, colour

    def cells(self) -> Cells:
        """The facts: which thing and which colour in each cell."""
        return {"thing": tuple(self.things), "colour": tuple(self.colours)}


def options(rng: Random, right: str, wrong: list[str]) -> tuple[str, str]:
    """Lettered lines in a random order, and the letter of the right one."""
    lines = [right, *wrong]
    rng.shuffle(lines)
    letters = "ABCDEFGH"
    text = "".join(f"\n{letter}. {line}" for letter, line in zip(letters, lines, strict=False))
    return text, letters[lines.index(right)]


def others(rng: Random, pool: list[str], taken: list[str], count: int) -> list[str]:
    """Some members of a pool that are not taken."""
    return rng.sample([p for p in pool if p not in taken], count)
