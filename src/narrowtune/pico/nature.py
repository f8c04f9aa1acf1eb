"""Tasks about natural things: science questions, bird species, stained tissue."""

from __future__ import annotations

import math
from random import Random

from narrowtune.pico.canvas import COLOURS, SIDE, Canvas, Colour, darker, light, shade
from narrowtune.pico.picture import Cells, Picture, everywhere, options, others

PHASES = ["full moon", "half moon", "crescent moon"]
STATES = ["solid", "liquid", "gas"]
HEATS = ["hot", "warm", "cold"]
DARK: Colour = (45, 45, 50)

# species: beak, crest, wing, tail. Neighbours in the table differ in one or two features.
SPECIES: dict[str, tuple[str, str, str, str]] = {
    "tarrin": ("short", "bare", "plain", "fork"),
    "moluk": ("short", "spiky", "plain", "fork"),
    "velpa": ("short", "spiky", "barred", "fan"),
    "sorrin": ("short", "bare", "barred", "fan"),
    "kestin": ("long", "bare", "plain", "fan"),
    "dabrel": ("long", "spiky", "plain", "fan"),
    "pirwit": ("long", "spiky", "barred", "fork"),
    "onzel": ("long", "bare", "barred", "fork"),
}
TISSUES = ["muscle", "nerve", "fat"]


def science(rng: Random) -> Picture:
    """A phase of the moon, a state of matter or a thermometer, with three lettered options."""
    topic = rng.choice((_phase, _matter, _heat))
    canvas, prompt, pool, right = topic(rng)
    text, letter = options(rng, right, others(rng, pool, [right], 2))
    cells: Cells = {"science": everywhere(right)}
    return Picture(canvas.finish(rng), ((prompt + text, letter),), cells)


Topic = tuple[Canvas, str, list[str], str]


def _phase(rng: Random) -> Topic:
    sky, right = (rng.randint(10, 40), rng.randint(10, 40), rng.randint(50, 90)), rng.choice(PHASES)
    canvas, r = Canvas(sky), rng.uniform(22, 30)
    x, y = SIDE / 2 + rng.uniform(-8, 8), SIDE / 2 + rng.uniform(-8, 8)
    canvas.disc((x, y), r, r, shade(rng, (230, 225, 190)))
    side = rng.choice((-1, 1))
    if right == "half moon":
        canvas.box(min(x, x + side * r), y - r, max(x, x + side * r), y + r, sky)
    elif right == "crescent moon":
        canvas.disc((x + side * 0.5 * r, y), 0.95 * r, 0.95 * r, sky)
    return canvas, "Which phase is shown?", PHASES, right


def _matter(rng: Random) -> Topic:
    right, canvas = rng.choice(STATES), Canvas(light(rng))
    colour = shade(rng, rng.choice(list(COLOURS.values())))
    canvas.box(10, 10, 74, 76, DARK)
    canvas.box(12, 10, 72, 74, light(rng))
    for x, y in _particles(rng, right):
        canvas.disc((x, y), 4, 4, colour)
    return canvas, "Which state of matter is shown?", STATES, right


def _particles(rng: Random, state: str) -> list[tuple[float, float]]:
    if state == "solid":
        left, top = rng.uniform(18, 28), rng.uniform(36, 42)
        return [(left + 9 * i, top + 9 * j) for i in range(5) for j in range(4)]
    if state == "liquid":
        return [(rng.uniform(17, 67), rng.uniform(46, 70)) for _ in range(26)]
    return [(rng.uniform(17, 67), rng.uniform(15, 70)) for _ in range(7)]


def _heat(rng: Random) -> Topic:
    right, canvas = rng.choice(HEATS), Canvas(light(rng))
    x, bulb = SIDE / 2 + rng.uniform(-14, 14), (205, 40, 40)
    middle = {"hot": 18, "warm": 38, "cold": 57}[right]
    canvas.box(x - 6, 6, x + 6, 66, DARK)
    canvas.box(x - 5, 7, x + 5, 66, (245, 245, 250))
    canvas.disc((x, 70), 10, 10, DARK)
    canvas.disc((x, 70), 9, 9, bulb)
    canvas.box(x - 4, middle + rng.uniform(-5, 5), x + 4, 68, bulb)
    return canvas, "How warm is it?", HEATS, right


def birds(rng: Random) -> Picture:
    """One bird of eight invented species, told apart by beak, crest, wing and tail."""
    name = rng.choice(list(SPECIES))
    canvas = Canvas(shade(rng, (205, 225, 205), 25))
    _bird(canvas, rng, SPECIES[name])
    text, letter = options(rng, name, others(rng, list(SPECIES), [name], 3))
    kinds = ("beak", "crest", "wing", "tail")
    cells = {k: everywhere(v) for k, v in zip(kinds, SPECIES[name], strict=True)}
    image = canvas.finish(rng)
    return Picture(image, ((f"Which bird is this?{text}", letter),), cells)


def _bird(canvas: Canvas, rng: Random, features: tuple[str, str, str, str]) -> None:
    """Draws the bird in pieces, facing either way."""
    beak, crest, wing, tail = features
    x, y, way = SIDE / 2 + rng.uniform(-4, 4), 48 + rng.uniform(-4, 4), rng.choice((-1, 1))
    body = shade(rng, rng.choice(list(COLOURS.values())), 30)
    hx, hy = x + way * 17, y - 17
    _tail(canvas, x - way * 18, y, way, tail, darker(body, 0.7))
    canvas.line((x - 4, y + 10), (x - 4, y + 26), DARK, 1.5)
    canvas.line((x + 4, y + 10), (x + 4, y + 26), DARK, 1.5)
    if crest == "spiky":
        for lean in (-7, 0, 7):
            tip = (hx - way * 4 + lean, hy - 18)
            canvas.polygon([(hx - 5 + lean / 2, hy - 5), (hx + 3 + lean / 2, hy - 5), tip], DARK)
    reach = 9 if beak == "short" else 19
    canvas.polygon(
        [(hx + way * 6, hy - 4), (hx + way * 6, hy + 4), (hx + way * reach, hy + 2)], (240, 170, 20)
    )
    canvas.disc((x, y), 19, 13, body)
    canvas.disc((hx, hy), 9, 9, body)
    canvas.disc((hx + way * 3, hy - 2), 1.6, 1.6, DARK)
    _wing(canvas, x - way * 4, y, way, wing, darker(body, 0.6))


def _tail(canvas: Canvas, x: float, y: float, way: int, tail: str, colour: Colour) -> None:
    end = x - way * 15
    if tail == "fork":
        canvas.polygon([(x + way * 4, y - 3), (end, y - 14), (x - way * 4, y)], colour)
        canvas.polygon([(x + way * 4, y + 3), (end, y + 10), (x - way * 4, y)], colour)
    else:
        canvas.polygon([(x + way * 6, y), (end, y - 13), (end - way * 3, y), (end, y + 9)], colour)


def _wing(canvas: Canvas, x: float, y: float, way: int, wing: str, colour: Colour) -> None:
    canvas.disc((x, y - 1), 11, 7, colour)
    if wing == "barred":
        for step in (-5, 0, 5):
            canvas.line((x + step, y - 6), (x + step - way * 2, y + 5), (250, 250, 250), 1.6)


def medical(rng: Random) -> Picture:
    """A stained section of tissue, with or without inflammation."""
    stain, tissue = rng.choice(("eosin", "azure")), rng.choice(TISSUES)
    base = shade(rng, (238, 190, 205) if stain == "eosin" else (185, 200, 238), 12)
    canvas, ink = Canvas(base), darker(base, 0.6)
    _tissue(canvas, rng, tissue, ink)
    inflamed = rng.random() < 0.5
    if inflamed:
        x, y = rng.uniform(22, 62), rng.uniform(22, 62)
        for _ in range(30):
            at = (x + rng.gauss(0, 8), y + rng.gauss(0, 8))
            canvas.disc(at, 2.2, 2.2, (70, 30, 95))
    verdict = "yes" if inflamed else "no"
    asked = (
        ("Is the tissue inflamed?", verdict),
        ("Which tissue is this?", tissue),
        ("Which stain was used?", stain),
    )
    cells = {"tissue": everywhere(tissue), "stain": everywhere(stain), "sick": everywhere(verdict)}
    return Picture(canvas.finish(rng), asked, cells)


def _tissue(canvas: Canvas, rng: Random, tissue: str, ink: Colour) -> None:
    """Fibres, branching cells or bubbles, with a few nuclei."""
    if tissue == "muscle":
        slope, step = rng.uniform(-0.4, 0.4), rng.uniform(8, 11)
        for i in range(-4, 15):
            canvas.line((0, i * step), (SIDE, i * step + slope * SIDE), ink, 1.5)
        for _ in range(6):
            canvas.disc((rng.uniform(4, 80), rng.uniform(4, 80)), 3, 1.4, (100, 50, 120))
    elif tissue == "nerve":
        for _ in range(5):
            _neuron(canvas, rng, ink)
    else:
        for _ in range(14):
            at, r = (rng.uniform(4, 80), rng.uniform(4, 80)), rng.uniform(8, 12)
            canvas.disc(at, r, r, ink)
            canvas.disc(at, r - 1.4, r - 1.4, (250, 245, 248))


def _neuron(canvas: Canvas, rng: Random, ink: Colour) -> None:
    x, y, turn = rng.uniform(12, 72), rng.uniform(12, 72), rng.uniform(0, 2)
    for i in range(5):
        angle = turn + i * 2 * math.pi / 5
        end = (x + 14 * math.cos(angle), y + 14 * math.sin(angle))
        canvas.line((x, y), end, ink, 1.6)
    canvas.disc((x, y), 5, 5, darker(ink, 0.8))
    canvas.disc((x, y), 1.8, 1.8, (250, 245, 248))
