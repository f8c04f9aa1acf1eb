"""Sixteen things that can be drawn in a cell, each a small function of place, size and colour."""

from __future__ import annotations

import math
from collections.abc import Callable

from narrowtune.pico.canvas import Canvas, Colour, Point, darker

Icon = Callable[[Canvas, float, float, float, Colour], None]
WHITE: Colour = (250, 250, 250)
DARK: Colour = (50, 50, 55)


def _rim(x: float, y: float, r: float, start: float, stop: float, steps: int = 20) -> list[Point]:
    """Points along an arc, angles in radians, counted clockwise on the screen."""
    angles = [start + (stop - start) * i / steps for i in range(steps + 1)]
    return [(x + r * math.cos(a), y + r * math.sin(a)) for a in angles]


def _circle(c: Canvas, x: float, y: float, r: float, fill: Colour) -> None:
    c.disc((x, y), r, r, fill)


def _square(c: Canvas, x: float, y: float, r: float, fill: Colour) -> None:
    c.box(x - 0.85 * r, y - 0.85 * r, x + 0.85 * r, y + 0.85 * r, fill)


def _triangle(c: Canvas, x: float, y: float, r: float, fill: Colour) -> None:
    c.polygon([(x, y - r), (x + r, y + 0.85 * r), (x - r, y + 0.85 * r)], fill)


def _star(c: Canvas, x: float, y: float, r: float, fill: Colour) -> None:
    points = []
    for i in range(10):
        reach = r if i % 2 == 0 else 0.42 * r
        angle = -math.pi / 2 + i * math.pi / 5
        points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    c.polygon(points, fill)


def _heart(c: Canvas, x: float, y: float, r: float, fill: Colour) -> None:
    c.disc((x - 0.48 * r, y - 0.35 * r), 0.52 * r, 0.52 * r, fill)
    c.disc((x + 0.48 * r, y - 0.35 * r), 0.52 * r, 0.52 * r, fill)
    c.polygon([(x - 0.97 * r, y - 0.15 * r), (x + 0.97 * r, y - 0.15 * r), (x, y + r)], fill)


def _cross(c: Canvas, x: float, y: float, r: float, fill: Colour) -> None:
    c.box(x - r, y - 0.32 * r, x + r, y + 0.32 * r, fill)
    c.box(x - 0.32 * r, y - r, x + 0.32 * r, y + r, fill)


def _ring(c: Canvas, x: float, y: float, r: float, fill: Colour) -> None:
    outer = _rim(x, y, r, 0, 2 * math.pi, 32)
    inner = _rim(x, y, 0.55 * r, 2 * math.pi, 0, 32)
    c.polygon(outer + inner, fill)


def _moon(c: Canvas, x: float, y: float, r: float, fill: Colour) -> None:
    outer = _rim(x, y, r, 0.35 * math.pi, 1.65 * math.pi)
    inner = _rim(x + 0.55 * r, y, 0.88 * r, 1.55 * math.pi, 0.45 * math.pi)
    c.polygon(outer + inner, fill)


def _house(c: Canvas, x: float, y: float, r: float, fill: Colour) -> None:
    c.box(x - 0.7 * r, y - 0.1 * r, x + 0.7 * r, y + r, fill)
    c.polygon([(x, y - r), (x + r, y - 0.1 * r), (x - r, y - 0.1 * r)], darker(fill))
    c.box(x - 0.2 * r, y + 0.35 * r, x + 0.2 * r, y + r, DARK)


def _tree(c: Canvas, x: float, y: float, r: float, fill: Colour) -> None:
    c.box(x - 0.16 * r, y + 0.1 * r, x + 0.16 * r, y + r, (110, 75, 40))
    c.disc((x, y - 0.35 * r), 0.75 * r, 0.65 * r, fill)


def _car(c: Canvas, x: float, y: float, r: float, fill: Colour) -> None:
    c.box(x - r, y - 0.05 * r, x + r, y + 0.5 * r, fill)
    roof = [(x - 0.6 * r, y), (x - 0.35 * r, y - 0.5 * r), (x + 0.35 * r, y - 0.5 * r)]
    c.polygon([*roof, (x + 0.65 * r, y)], darker(fill, 0.75))
    c.disc((x - 0.55 * r, y + 0.5 * r), 0.26 * r, 0.26 * r, DARK)
    c.disc((x + 0.55 * r, y + 0.5 * r), 0.26 * r, 0.26 * r, DARK)


def _sun(c: Canvas, x: float, y: float, r: float, fill: Colour) -> None:
    c.disc((x, y), 0.52 * r, 0.52 * r, fill)
    for i in range(8):
        a = i * math.pi / 4
        start = (x + 0.65 * r * math.cos(a), y + 0.65 * r * math.sin(a))
        c.line(start, (x + r * math.cos(a), y + r * math.sin(a)), fill, 1.5)


def _flower(c: Canvas, x: float, y: float, r: float, fill: Colour) -> None:
    for i in range(5):
        a = -math.pi / 2 + i * 2 * math.pi / 5
        petal = (x + 0.55 * r * math.cos(a), y + 0.55 * r * math.sin(a))
        c.disc(petal, 0.4 * r, 0.4 * r, fill)
    c.disc((x, y), 0.3 * r, 0.3 * r, WHITE)


def _boat(c: Canvas, x: float, y: float, r: float, fill: Colour) -> None:
    hull = [(x - r, y + 0.35 * r), (x + r, y + 0.35 * r), (x + 0.6 * r, y + 0.9 * r)]
    c.polygon([*hull, (x - 0.6 * r, y + 0.9 * r)], darker(fill))
    c.polygon([(x - 0.1 * r, y - r), (x - 0.1 * r, y + 0.2 * r), (x + 0.75 * r, y + 0.2 * r)], fill)


def _cup(c: Canvas, x: float, y: float, r: float, fill: Colour) -> None:
    c.disc((x + 0.6 * r, y), 0.42 * r, 0.42 * r, darker(fill))
    c.disc((x + 0.6 * r, y), 0.2 * r, 0.2 * r, WHITE)
    left, right = x - 0.8 * r, x + 0.5 * r
    c.polygon([(left, y - 0.8 * r), (right, y - 0.8 * r), (x + 0.25 * r, y + 0.85 * r),
               (x - 0.55 * r, y + 0.85 * r)], fill)  # fmt: skip


def _fish(c: Canvas, x: float, y: float, r: float, fill: Colour) -> None:
    c.disc((x - 0.2 * r, y), 0.78 * r, 0.5 * r, fill)
    c.polygon([(x + 0.4 * r, y), (x + r, y - 0.55 * r), (x + r, y + 0.55 * r)], darker(fill, 0.8))
    c.disc((x - 0.6 * r, y - 0.12 * r), 0.11 * r, 0.11 * r, DARK)


ICONS: dict[str, Icon] = {
    "circle": _circle, "square": _square, "triangle": _triangle, "star": _star,
    "heart": _heart, "cross": _cross, "ring": _ring, "moon": _moon,
    "house": _house, "tree": _tree, "car": _car, "sun": _sun,
    "flower": _flower, "boat": _boat, "cup": _cup, "fish": _fish,
}  # fmt: skip

PLURALS: dict[str, str] = {
    **{name: f"{name}s" for name in ICONS},
    "cross": "crosses",
    "fish": "fish",
}
