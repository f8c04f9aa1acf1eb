"""What contestants are taught: drawn tokens and pictures, encoded and made into batches once.

Preparing data is left out of every contestant's time alike: they share the very same tensors, in
the order that `narrowtune run` teaches them in.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from benchmarks.models import WORDS
from narrowtune.data.batching import Batch, collate
from narrowtune.data.encoding import Encoded
from narrowtune.data.example import Example, ImagePart, Message, TextPart
from narrowtune.models.processing import Processing
from narrowtune.training import Settings
from narrowtune.training.stage import batch_order

LEAD = 14  # tokens before the picture: a system line, a role header


@dataclass(frozen=True)
class Scene:
    """A kind of training data.

    Attributes:
        name: In a few words.
        sides: Of square pictures, in pixels, taken in turns; empty for text alone.
        questions: Rows that ask about the same picture, or follow the same lead.
        rows: Of every step: all steps then execute the same number of operations.
        prompt: Fewest and most tokens behind the picture, before the answer.
        answer: Fewest and most tokens that are taught.
    """

    name: str
    sides: tuple[int, ...]
    questions: int = 1
    rows: int = 4
    prompt: tuple[int, int] = (12, 40)
    answer: tuple[int, int] = (1, 6)


SCENES = (
    Scene("one question per image", (448,)),
    Scene("six questions per image", (448,), questions=6, rows=12),
    Scene("images of mixed sizes", (448, 560, 672, 868)),
    Scene("text only, mixed lengths", (), rows=8, prompt=(40, 600)),
)


@dataclass(frozen=True)
class Lesson:
    """A scene drawn for a model, and how it is taught.

    Attributes:
        arm: The recipe, or a term.
        rows: What `run_stage` is given.
        settings: Of the stage.
        batches: Of every step, in order.
        processing: Of the model.
    """

    arm: str
    rows: Sequence[Encoded]
    settings: Settings
    batches: Sequence[Batch]
    processing: Processing


def lesson(scene: Scene, arm: str, processing: Processing, folder: Path, steps: int) -> Lesson:
    """The scene's rows and batches, the same at every call.

    Args:
        scene: What is taught.
        arm: What is trained.
        processing: The model's, for its placeholders and pixels.
        folder: Where pictures are drawn.
        steps: Optimiser steps.
    """
    rows = draw_rows(scene, processing, folder)
    settings = Settings(
        steps, scene.rows, scene.rows, learning_rate=1e-5, schedule="constant", warmup=0.0
    )
    orders = batch_order([len(row) for row in rows], settings)
    made = {
        order: collate([rows[index] for index in order], processing, padding_side="right")
        for order in {tuple(order) for order in orders}
    }
    batches = [made[tuple(order)] for order in orders]
    return Lesson(arm, rows, settings, batches, processing)


def draw_rows(scene: Scene, processing: Processing, folder: Path) -> list[Encoded]:
    """Rows of drawn tokens; those of one picture start alike up to its end."""
    draw = random.Random(scene.name)
    lead = _tokens(draw, LEAD)
    pictures = [
        _picture(folder, scene, number) for number in range(-(-scene.rows // scene.questions))
    ]
    return [
        _row(draw, scene, processing, (lead, pictures[number // scene.questions]))
        for number in range(scene.rows)
    ]


def _row(
    draw: random.Random, scene: Scene, processing: Processing, start: tuple[tuple[int, ...], Path]
) -> Encoded:
    prompt, picture = start
    parts: tuple[TextPart | ImagePart, ...] = (TextPart("?"),)
    if scene.sides:
        with Image.open(picture) as image:
            (placeholders,) = processing.image_token_counts([image.size])
        prompt += (int(processing.image_token_id or 0),) * placeholders
        parts = (ImagePart(picture), *parts)
    prompt += _tokens(draw, draw.randint(*scene.prompt))
    answer = _tokens(draw, draw.randint(*scene.answer))
    turns = (Message("user", parts), Message("assistant", (TextPart("!"),)))
    example = Example("drawn", turns, "drawn", ("!",))
    taught = (False,) * len(prompt) + (True,) * len(answer)
    return Encoded(example, prompt + answer, taught, len(prompt))


def _tokens(draw: random.Random, count: int) -> tuple[int, ...]:
    """Words alone, no placeholder."""
    return tuple(draw.randrange(WORDS) for _ in range(count))


def _picture(folder: Path, scene: Scene, number: int) -> Path:
    path = folder / f"{scene.name} {number}.png"
    if scene.sides and not path.exists():
        side = scene.sides[number % len(scene.sides)]
        noise = random.Random(number).randbytes(3 * 28 * 28)
        Image.frombytes("RGB", (28, 28), noise).resize((side, side)).save(path)
    return path
