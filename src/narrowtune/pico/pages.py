"""Tasks about marks that mean something: charts, documents, infographics, signs, clocks."""

from __future__ import annotations

import math
from random import Random

from narrowtune.pico.canvas import (
    CELL,
    CELLS,
    COLOURS,
    SIDE,
    Canvas,
    Colour,
    Point,
    Style,
    centre,
    darker,
    light,
    shade,
)
from narrowtune.pico.icons import ICONS
from narrowtune.pico.picture import NOTHING, Board, Cells, Picture, everywhere

PAGE_WORDS = [
    "invoice", "letter", "report", "receipt", "memo", "order",
    "notice", "form", "ticket", "bill", "list", "note",
]  # fmt: skip
SIGN_WORDS = [
    "stop", "open", "exit", "taxi", "hotel", "bank", "park", "cafe",
    "sale", "zoo", "bus", "fire", "shop", "pizza", "farm", "gate",
]  # fmt: skip
INK: Colour = (40, 40, 45)


def charts(rng: Random) -> Picture:
    """Three bars of different colour and height on an axis."""
    canvas = Canvas(light(rng))
    levels, hues = rng.sample(range(1, 8), CELLS), rng.sample(list(COLOURS), CELLS)
    floor = rng.uniform(76, 80)
    for column, (level, hue) in enumerate(zip(levels, hues, strict=True)):
        middle = centre(column)[0] + rng.uniform(-3, 3)
        half = rng.uniform(6, 10)
        top = floor - 10 * level + rng.uniform(-1.5, 1.5)
        canvas.box(middle - half, top, middle + half, floor, shade(rng, COLOURS[hue]))
    canvas.line((2, floor), (82, floor), INK, 1)
    canvas.line((2, 4), (2, floor), INK, 1)
    by_height = [hue for _, hue in sorted(zip(levels, hues, strict=True))]
    questions = (("Which bar is tallest?", by_height[-1]), ("Which bar is lowest?", by_height[0]))
    cells: Cells = {
        "level": tuple(str(levels[i % CELLS]) for i in range(CELLS * CELLS)),
        "bar": tuple(hues[i % CELLS] for i in range(CELLS * CELLS)),
    }
    return Picture(canvas.finish(rng), questions, cells)


def documents(rng: Random) -> Picture:
    """A white page with three printed words, one under another."""
    paper = rng.randint(236, 255)
    canvas = Canvas((paper, paper, paper - rng.randint(0, 12)))
    words = rng.sample(PAGE_WORDS, CELLS)
    style = Style(rng)
    letters = [""] * (CELLS * CELLS)
    for row, word in enumerate(words):
        printed = _print(canvas, rng, word, row, style)
        letters = [a + b for a, b in zip(letters, printed, strict=True)]
    names = ("first", "second", "third")
    asked = [(f"What does the {n} line say?", w) for n, w in zip(names, words, strict=True)]
    by_row = tuple(words[i // CELLS] for i in range(CELLS * CELLS))
    return Picture(canvas.finish(rng), tuple(asked), {"word": by_row, "letters": tuple(letters)})


def _print(canvas: Canvas, rng: Random, word: str, row: int, style: Style) -> list[str]:
    """One line of the page, now and then with a rule under it; returns the letters per cell."""
    at = (SIDE / 2 + rng.uniform(-3, 3), (row + 0.5) * CELL + rng.uniform(-2.5, 2.5))
    ink = rng.randint(0, 70)
    letters = canvas.spell(word, at, rng.uniform(15, 17.5), (ink, ink, ink), style)
    if rng.random() < 0.3:
        canvas.line((8, (row + 1) * CELL - 2), (76, (row + 1) * CELL - 2), (190, 190, 195), 0.5)
    return letters


def infographics(rng: Random) -> Picture:
    """Three coloured panels, each with a thing and the number that goes with it."""
    board = Board(rng, light(rng))
    things = rng.sample(list(ICONS), CELLS)
    numbers = [str(n) for n in rng.sample(range(10), CELLS)]
    columns = rng.sample(range(CELLS), 2)
    digits = [NOTHING] * (CELLS * CELLS)
    style = Style(rng)
    for row, (thing, number) in enumerate(zip(things, numbers, strict=True)):
        board.canvas.box(2, row * CELL + 1, 82, (row + 1) * CELL - 1, light(rng))
        board.place(row * CELLS + columns[0], thing, rng.choice(list(COLOURS)), (8, 11))
        cell = row * CELLS + columns[1]
        x, y = centre(cell)
        at = (x + rng.uniform(-4, 4), y + rng.uniform(-3, 3))
        board.canvas.text(number, at, rng.uniform(19, 24), shade(rng, INK, 30), style)
        digits[cell] = number
    asked = [(f"What number is by the {t}?", n) for t, n in zip(things, numbers, strict=True)]
    cells = board.cells() | {"digit": tuple(digits)}
    return Picture(board.canvas.finish(rng), tuple(asked), cells)


def reading(rng: Random) -> Picture:
    """A street with a coloured sign on a pole, its word turned a little and grainy."""
    canvas = Canvas(shade(rng, (170, 205, 235), 25))
    canvas.box(0, rng.uniform(58, 66), SIDE, SIDE, shade(rng, (150, 160, 140), 40))
    word = rng.choice(SIGN_WORDS)
    at = (SIDE / 2 + rng.uniform(-3, 3), SIDE / 2 + rng.uniform(-4, 4))
    canvas.line(at, (at[0], 80), INK, 2.5)
    turn = rng.uniform(-6, 6)
    board = darker(shade(rng, rng.choice(list(COLOURS.values())), 25), rng.uniform(0.5, 0.8))
    _plate(canvas, at, turn, board)
    style = Style(rng)
    style.turn = -turn
    letters = canvas.spell(word.upper(), at, rng.uniform(18, 20), (250, 250, 245), style)
    question = ("What does the sign say?", word)
    cells: Cells = {"word": everywhere(word), "letters": tuple(letters)}
    return Picture(canvas.finish(rng, 12.0), (question,), cells)


def _plate(canvas: Canvas, at: Point, turn: float, colour: Colour) -> None:
    """A rectangle of 66 x 24 pixels, turned clockwise by some degrees."""
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    corners = [(-33, -12), (33, -12), (33, 12), (-33, 12)]
    canvas.polygon(
        [(at[0] + x * cos - y * sin, at[1] + x * sin + y * cos) for x, y in corners], colour
    )


def clock(rng: Random) -> Picture:
    """A round clock with two hands, in steps of five minutes."""
    hour, minute = rng.randrange(12), 5 * rng.randrange(12)
    canvas = Canvas(light(rng))
    x, y = SIDE / 2 + rng.uniform(-3, 3), SIDE / 2 + rng.uniform(-3, 3)
    radius = rng.uniform(33, 38)
    canvas.disc((x, y), radius, radius, shade(rng, rng.choice(list(COLOURS.values()))))
    canvas.disc((x, y), radius - 3, radius - 3, (250, 250, 248))
    for tick in range(12):
        canvas.line(_hand(x, y, radius - 7, tick / 12), _hand(x, y, radius - 4, tick / 12), INK, 1)
    ink = shade(rng, INK, 40)
    canvas.line((x, y), _hand(x, y, 0.5 * radius, (hour + minute / 60) / 12), ink, 4)
    canvas.line((x, y), _hand(x, y, 0.82 * radius, minute / 60), ink, 2.2)
    question = ("What time is it?", f"{hour or 12:02d}:{minute:02d}")
    cells = {"hour": everywhere(str(hour or 12)), "minute": everywhere(str(minute))}
    cells |= {"tip": _tip(_hand(x, y, 0.7 * radius, minute / 60), str(minute))}
    return Picture(canvas.finish(rng), (question,), cells)


def _tip(end: Point, minute: str) -> tuple[str, ...]:
    """The minutes, said only of the cell that the long hand ends in."""
    cell = int(end[1] // CELL) * CELLS + int(end[0] // CELL)
    return tuple(minute if i == cell else NOTHING for i in range(CELLS * CELLS))


def _hand(x: float, y: float, length: float, turn: float) -> Point:
    """The end of a hand that has made `turn` of a full circle since twelve."""
    angle = 2 * math.pi * turn - math.pi / 2
    return x + length * math.cos(angle), y + length * math.sin(angle)
