"""Greedy answers with a common start read once, against each prompt read whole.

Random weights of a real class: what is measured is arithmetic, not ability. The ways answer the
same prompts and take turns in one process; nothing is printed unless their answers are equal.
Images are opened and made into batches before the clock runs, for all ways alike.

python -m benchmarks.generation [--rounds N] [--tasks ...]
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.models import QWEN, drawn_model, processing_of
from benchmarks.scenes import Scene, draw_rows
from benchmarks.timing import Timing
from narrowtune.data.batches import Batches
from narrowtune.data.encoding import Encoded
from narrowtune.data.starts import beginning
from narrowtune.engine import peak_bytes, reset_peak
from narrowtune.models.generation import Answer, generate_answers
from narrowtune.models.processing import Processing

BATCH, NEW_TOKENS, ROUNDS = 12, 8, 3
MARK = 2  # a token
SIDES = (448,)  # 256 tokens an image
WHOLE, ONCE, TRIED = "every prompt whole", "start read once", "with its trial"


@dataclass(frozen=True)
class Asked:
    """A task.

    Attributes:
        scene: Of its prompts.
        lead: Tokens that all prompts begin with, beside those of the scene.
    """

    scene: Scene
    lead: int = 0


TASKS = {
    "six": Asked(Scene("six questions per image", SIDES, questions=6, rows=24)),
    "two": Asked(Scene("two questions per image", SIDES, questions=2, rows=24)),
    "text": Asked(Scene("text behind 300 common tokens", (), rows=24, prompt=(20, 100)), lead=300),
}


def prompts_of(asked: Asked, processing: Processing, folder: Path) -> Batches:
    """The task's prompts, in batches."""
    rows = draw_rows(asked.scene, processing, folder)
    token = processing.image_token_id
    prompts = [_behind(beginning(row, row.prompt_length), asked.lead, token) for row in rows]
    return Batches(prompts, processing, BATCH, "left")


def _behind(prompt: Encoded, lead: int, image_token: int | None) -> Encoded:
    """The prompt behind common tokens, with a mark behind its image as Qwen's template has one."""
    ids = list(prompt.input_ids)
    if image_token in ids:
        ids.insert(len(ids) - ids[::-1].index(image_token), MARK)
    ids = [*range(2, 2 + lead), *ids]
    taught = (False,) * len(ids)
    return replace(prompt, input_ids=tuple(ids), supervised=taught, prompt_length=len(ids))


def answer(model: nn.Module, prompts: Batches, way: str, new_tokens: int) -> list[Answer]:
    """All answers in one of the three ways."""
    if way == WHOLE:
        whole: Iterable[tuple[Sequence[int], Any]] = list(prompts)
        return generate_answers(model, prompts.processing, whole, new_tokens)
    starts = prompts.starts
    assert starts is not None, "no start is worth reading once"
    if way == TRIED:
        starts.tried.clear()
    return generate_answers(model, prompts.processing, prompts, new_tokens)


def timed(
    model: nn.Module, prompts: Batches, rounds: int, new_tokens: int = NEW_TOKENS
) -> dict[str, Timing]:
    """Seconds of all answers by the way they are had.

    Raises:
        AssertionError: The ways' answers differ, or a trial refused.
    """
    timings = {way: Timing() for way in (WHOLE, ONCE, TRIED)}
    for turn in range(rounds + 1):
        said = {}
        for way, timing in timings.items():
            with timing.noting():
                said[way] = answer(model, prompts, way, new_tokens)
        assert said[WHOLE] == said[ONCE] == said[TRIED], "the ways answer differently"
        assert all(prompts.starts.tried.values()), "the trial refused"
        if not turn:  # the first round warms up
            timings = {way: Timing() for way in timings}
    return timings


def peak_above_model(place: tuple[Path, Path], task: str, way: str) -> int:
    """Bytes at the peak of answering, above the loaded model, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (place, task, way))


def _measured(place: tuple[Path, Path], task: str, way: str) -> int:
    folder, pictures = place
    model = drawn_model(folder)
    prompts = prompts_of(TASKS[task], processing_of(folder), pictures)
    list(prompts)
    gc.collect()
    cpu = torch.device("cpu")
    reset_peak(cpu)
    before = peak_bytes(cpu)
    answer(model, prompts, way, NEW_TOKENS)
    return peak_bytes(cpu) - before


def _print(prompts: Batches, timings: dict[str, Timing], peaks: dict[str, int]) -> None:
    rows, base = len(prompts.encoded), timings[WHOLE]
    lengths = [len(prompt) for prompt in prompts.encoded]
    print(
        f"{rows} prompts of {min(lengths)} to {max(lengths)} tokens, {BATCH} a batch, "
        f"{NEW_TOKENS} new tokens; answers are equal"
    )
    print(f"{'way':<20} {'CPU s/batch':>11} {'speed-up':>9} {'least, most':>14} {'peak MiB':>9}")
    for way, timing in timings.items():
        ratios = [a / b for a, b in zip(base.cpu, timing.cpu, strict=True)]
        seconds = statistics.median(timing.cpu) * BATCH / rows
        peak = f"{peaks[way] / 2**20:9.0f}" if way in peaks else ""
        print(
            f"{way:<20} {seconds:11.2f} {statistics.median(ratios):8.2f}x"
            f" {min(ratios):6.2f}, {max(ratios):5.2f} {peak}"
        )


def main() -> None:
    """Print CPU seconds per batch of each way, taken in turns, and peaks above the model."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = QWEN.write(Path(made) / "model")
        model, processing = drawn_model(folder), processing_of(folder)
        for task in asked.tasks:
            prompts = prompts_of(TASKS[task], processing, Path(made))
            timings = timed(model, prompts, asked.rounds)
            peaks = {
                way: peak_above_model((folder, Path(made)), task, way) for way in (WHOLE, TRIED)
            }
            print(f"\n{QWEN.name}: {TASKS[task].scene.name}")
            _print(prompts, timings, peaks)


if __name__ == "__main__":
    main()
