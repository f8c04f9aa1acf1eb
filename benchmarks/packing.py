"""A micro-batch padded, packed under a mask, and packed by segments: the same loss in how long.

Forward and backward, gate-up trained, vision frozen, fp32, drawn weights of real classes with a
real vocabulary; the variants take turns. The bundled models learn their own task, in batches of 32.

python -m benchmarks.packing [--rounds N] [--shapes ...] [--cases ...]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.models import LLAVA, QWEN, Shape, drawn_model, processing_of
from benchmarks.scenes import SCENES, draw_rows
from benchmarks.timing import Timing, timed_step
from narrowtune import pico
from narrowtune.anatomy import Anatomy
from narrowtune.data import encode_all, read_examples
from narrowtune.data.batching import Batch, collate
from narrowtune.data.encoding import Encoded
from narrowtune.data.example import Example, TextPart
from narrowtune.data.sharing import Limits
from narrowtune.models.packed import attending_by_segments
from narrowtune.models.processing import Processing
from narrowtune.runner.frozen import frozen_towers_without_gradient
from narrowtune.training.loop import answer_loss
from narrowtune.training.packing import Packing

TOLERANCE = 1e-5  # relative, of the losses
SHAPES = {"qwen": QWEN, "llava": LLAVA}
PICO = {name: Shape(name, name, {}) for name in ("pico-qwen", "pico-llava")}
QUESTIONS, IMAGES, TEXTS = SCENES[1:4]
CASES = ("texts", "questions", "images and texts", "pico", "pico, half without images")


def rows_of(case: str, processing: Processing, folder: Path) -> list[Encoded]:
    """A case's micro-batch, the same at every call.

    Args:
        case: `texts` of 83 to 592 tokens; `questions`, six on each of two images; `images and
            texts`, four of each, in many sizes; `pico`, 32 samples of the bundled models' task.
        processing: Of the model.
        folder: Where pictures are drawn.
    """
    if case.startswith("pico"):
        pico.write(folder, "counting", "train", 32)
        examples = read_examples(folder / "counting" / "train.jsonl")
        if case != "pico":
            examples = [_blind(one) if n % 2 else one for n, one in enumerate(examples)]
        return encode_all(examples, processing)
    if case == "images and texts":
        drawn = (draw_rows(scene, processing, folder)[:4] for scene in (IMAGES, TEXTS))
        return [row for rows in drawn for row in rows]
    return draw_rows(QUESTIONS if case == "questions" else TEXTS, processing, folder)


def _blind(example: Example) -> Example:
    """The same question without the picture."""
    asked, *rest = example.messages
    words = tuple(part for part in asked.parts if isinstance(part, TextPart))
    return replace(example, messages=(replace(asked, parts=words), *rest))


@dataclass
class Variant:
    """One way to write the rows.

    Attributes:
        batch: The batch.
        by_segments: Whether the model attends by segments in it.
        timing: Of its steps.
        losses: The first steps' and the timed ones'.
    """

    batch: Batch
    by_segments: bool
    timing: Timing
    losses: list[float]


def variants(
    model: Any, processing: Processing, rows: Sequence[Encoded], share: bool
) -> dict[str, Variant]:
    """The rows padded, under a mask, and by segments.

    Args:
        model: Whose attention it is for.
        processing: Its processing.
        rows: A micro-batch.
        share: Write common starts once.
    """
    limits = Limits(share=share)
    made = {
        "padded": (collate(rows, processing, padding_side="right"), False),
        "under a mask": (Packing(model, processing, limits)(rows), False),
    }
    with attending_by_segments(model):
        made["by segments"] = (Packing(model, processing, limits)(rows), True)
    return {name: Variant(*one, Timing(), []) for name, one in made.items()}


def race(model: Any, found: dict[str, Variant], rounds: int) -> None:
    """All variants' steps in turns, the first of each untimed.

    Raises:
        AssertionError: Their losses differ.
    """
    for number in range(rounds + 1):
        for one in found.values():
            with attending_by_segments(model) if one.by_segments else nullcontext():
                timing = one.timing if number else Timing()
                one.losses.append(timed_step(model, _mean_loss, one.batch, timing))
    losses = [loss for one in found.values() for loss in one.losses]
    assert max(losses) / min(losses) - 1 < TOLERANCE, f"different losses: {losses}"


def _mean_loss(model: Any, batch: Batch) -> torch.Tensor:
    return answer_loss(model, batch) / batch.supervised_tokens


def main() -> None:
    """Print CPU seconds of a step, and ratios to the padded batch taken side by side."""
    asked = _parse()
    torch.set_num_threads(1)
    print("fp32, 1 thread; a step: forward and backward; ratio: padded / this (least, most)")
    for case in asked.cases:
        for shape in (PICO if case.startswith("pico") else asked.shapes).values():
            with tempfile.TemporaryDirectory() as folder:
                _compare(shape, case, Path(folder), asked.rounds)


def _compare(shape: Shape, case: str, folder: Path, rounds: int) -> None:
    place = shape.write(folder / "model")
    processing, model = processing_of(place), drawn_model(place)
    anatomy = Anatomy.of(model)
    anatomy.select(["gate-up"]).apply(model)
    rows = rows_of(case, processing, folder)
    found = variants(model, processing, rows, share=case == "questions")
    with frozen_towers_without_gradient(model, anatomy, {"language"}):
        race(model.train(), found, rounds)
    print(f"\n{shape.name}, {case}: {', '.join(str(len(row)) for row in rows)} tokens")
    base = found["padded"].timing.cpu
    for name, one in found.items():
        ratios = sorted(a / b for a, b in zip(base, one.timing.cpu, strict=True))
        size = " x ".join(map(str, one.batch.inputs["input_ids"].shape))
        print(
            f"{name:<13} {size:>10} {statistics.median(one.timing.cpu):8.3f} s "
            f"{statistics.median(ratios):5.2f} ({ratios[0]:.2f}, {ratios[-1]:.2f})",
            flush=True,
        )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="timed steps of each (3)")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    asked = parser.parse_args()
    asked.shapes = {name: SHAPES[name] for name in asked.shapes}
    return asked


if __name__ == "__main__":
    main()
