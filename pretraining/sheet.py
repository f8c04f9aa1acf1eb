"""One picture with examples of every task, for the documentation.

Usage: `python pretraining/sheet.py docs/images/pico.png`
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from narrowtune.pico import HELD_OUT, TARGETS, draw

ACROSS, EXAMPLES, SIDE, TITLE, GAP = 5, 3, 84, 14, 6


def sheet() -> Image.Image:
    """Three test pictures of each task under its name, five tasks in a row."""
    tasks = (*HELD_OUT, *TARGETS)
    rows = -(-len(tasks) // ACROSS)
    width, height = EXAMPLES * SIDE + GAP, SIDE + TITLE + GAP
    page = Image.new("RGB", (ACROSS * width, rows * height), "white")
    pen, face = ImageDraw.Draw(page), ImageFont.load_default(11)
    for place, task in enumerate(tasks):
        x, y = place % ACROSS * width, place // ACROSS * height
        pen.text((x + 2, y), task + (" (target)" if task in TARGETS else ""), "black", face)
        for index in range(EXAMPLES):
            page.paste(draw(task, "test", index).image, (x + index * SIDE, y + TITLE))
    return page


def main() -> None:
    """Writes the sheet with few enough colours to stay small."""
    path = Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet().quantize(96, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
