"""Tasks about things in cells: relations, scenes, choices, captions, existence, counting."""

from __future__ import annotations

import itertools
from random import Random

from narrowtune.pico.canvas import CELL, CELLS, COLOURS, SIDE, Point, centre, light
from narrowtune.pico.icons import ICONS, PLURALS
from narrowtune.pico.picture import NOTHING, Board, Picture, everywhere, options, others

THINGS = list(ICONS)
HUES = list(COLOURS)
INK = (70, 70, 80)


def relations(rng: Random) -> Picture:
    """Three things in a row or a column, joined by arrows; one is asked through its neighbour."""
    across = rng.random() < 0.5
    line = rng.randrange(CELLS)
    cells = [line * CELLS + i if across else i * CELLS + line for i in range(CELLS)]
    things = rng.sample(THINGS, CELLS)
    board = Board(rng, light(rng))
    for cell, thing in zip(cells, things, strict=True):
        board.place(cell, thing, rng.choice(HUES), (8, 10))
    for one, two in itertools.pairwise(cells):
        board.canvas.arrow(*_gap(centre(one), centre(two)), INK)
    before, after = ("left of", "right of") if across else ("above", "below")
    questions = []
    for first, second in itertools.pairwise(things):
        questions.append((f"What is {before} the {second}?", first))
        questions.append((f"What is {after} the {first}?", second))
    return Picture(board.canvas.finish(rng), tuple(questions), board.cells())


def _gap(start: Point, end: Point) -> tuple[Point, Point]:
    """The short piece between two cells, where an arrow fits."""
    (x0, y0), (x1, y1) = start, end
    return (x0 + 0.42 * (x1 - x0), y0 + 0.42 * (y1 - y0)), (
        x0 + 0.6 * (x1 - x0),
        y0 + 0.6 * (y1 - y0),
    )


def scenes(rng: Random) -> Picture:
    """A landscape by day or by night, with a few coloured things standing on the ground."""
    night = rng.random() < 0.5
    sky = (25, 30, 70) if night else (165, 205, 240)
    board = Board(rng, sky)
    horizon = CELL + rng.uniform(-4, 4)
    ground = rng.choice(((190, 210, 150), (215, 200, 165), (200, 200, 205)))
    board.canvas.box(0, horizon, SIDE, SIDE, ground)
    _sky(board, night)
    things = rng.sample(["house", "tree", "car", "flower", "boat"], rng.choice((2, 3)))
    hues = rng.sample(HUES, len(things))
    for cell, thing, hue in zip(rng.sample(range(3, 9), len(things)), things, hues, strict=True):
        board.place(cell, thing, hue, (9, 12))
    questions = [(f"What colour is the {t}?", h) for t, h in zip(things, hues, strict=True)]
    questions += [("Is it day or night?", "night" if night else "day")]
    cells = board.cells() | {"sky": everywhere("night" if night else "day")}
    return Picture(board.canvas.finish(rng), tuple(questions), cells)


def _sky(board: Board, night: bool) -> None:
    """Puts the moon or the sun in the upper row."""
    board.place(board.rng.randrange(CELLS), "moon" if night else "sun", "yellow", (7, 10))


def _scatter(rng: Random, count: int) -> tuple[Board, list[tuple[str, str]]]:
    """Different things of any colour in random cells."""
    board = Board(rng, light(rng))
    pairs = [(thing, rng.choice(HUES)) for thing in rng.sample(THINGS, count)]
    for cell, (thing, hue) in zip(rng.sample(range(9), count), pairs, strict=True):
        board.place(cell, thing, hue)
    return board, pairs


def choices(rng: Random) -> Picture:
    """Two or three things; four lettered options, of which the picture settles one."""
    board, pairs = _scatter(rng, rng.choice((2, 3)))
    shown = [thing for thing, _ in pairs]
    questions = []
    for thing, hue in pairs:
        text, letter = options(rng, thing, others(rng, THINGS, shown, 3))
        questions.append((f"Which of these is shown?{text}", letter))
        text, letter = options(rng, hue, others(rng, HUES, [hue], 3))
        questions.append((f"What colour is the {thing}?{text}", letter))
    return Picture(board.canvas.finish(rng), tuple(questions), board.cells())


def captions(rng: Random) -> Picture:
    """Two things beside or above each other, described by one sentence."""
    across = rng.random() < 0.5
    line = rng.randrange(CELLS)
    first, second = sorted(rng.sample(range(CELLS), 2))
    board = Board(rng, light(rng))
    things, hues = rng.sample(THINGS, 2), [rng.choice(HUES), rng.choice(HUES)]
    for place, thing, hue in zip((first, second), things, hues, strict=True):
        cell = line * CELLS + place if across else place * CELLS + line
        board.place(cell, thing, hue)
    link = "to the left of" if across else "above"
    sentence = f"There is a {hues[0]} {things[0]} {link} a {hues[1]} {things[1]}."
    question = ("Describe the picture.", sentence)
    return Picture(board.canvas.finish(rng), (question,), board.cells())


def existence(rng: Random) -> Picture:
    """Two to four things; asked of one that is there and of one that is not."""
    board, pairs = _scatter(rng, rng.choice((2, 3, 4)))
    shown = [thing for thing, _ in pairs]
    absent = others(rng, THINGS, shown, len(shown))
    questions = [(f"Is there a {thing} in the picture?", "yes") for thing in shown]
    questions += [(f"Is there a {thing} in the picture?", "no") for thing in absent]
    return Picture(board.canvas.finish(rng), tuple(questions), board.cells())


def places(rng: Random) -> Picture:
    """Pretraining only: what stands in a named place, and its colour."""
    board, pairs = _scatter(rng, rng.choice((2, 3, 4)))
    rows, columns = ("top", "middle", "bottom"), ("left", "centre", "right")
    questions = [(f"What colour is the {thing}?", hue) for thing, hue in pairs]
    for cell, thing in enumerate(board.things):
        if thing != NOTHING:
            row, column = divmod(cell, CELLS)
            questions.append((f"What is at the {rows[row]} {columns[column]}?", thing))
    return Picture(board.canvas.finish(rng), tuple(questions), board.cells())


def counting(rng: Random) -> Picture:
    """One to nine things of one kind, sometimes with one or two of another kind."""
    count = rng.randint(1, 9)
    thing, other = rng.sample(THINGS, 2)
    extra = rng.randint(0, min(2, 9 - count))
    board = Board(rng, light(rng))
    cells = rng.sample(range(9), count + extra)
    for place, cell in enumerate(cells):
        board.place(cell, thing if place < count else other, rng.choice(HUES))
    question = (f"How many {PLURALS[thing]} are there?", str(count))
    return Picture(board.canvas.finish(rng), (question,), board.cells())
