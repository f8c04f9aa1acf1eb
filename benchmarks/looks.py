"""What probes read during training add to it, at the default number of rows.

Stretches of steps with a look at their end and without one take turns in one process. A look's
cost is the difference; at an interval it is spread over that many steps. Steps are those of a real
run: batch, loss, backward, clip, AdamW.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmarks.models import qwen2
from benchmarks.timing import Timing
from narrowtune import pico
from narrowtune.anatomy import Anatomy
from narrowtune.data.batching import collate
from narrowtune.data.encoding import Encoded, encode_all
from narrowtune.data.example import Example, Message, TextPart
from narrowtune.data.formats import read_examples
from narrowtune.engine import Engine
from narrowtune.experiment import ProbeSpec
from narrowtune.models.loading import load_model
from narrowtune.models.processing import Processing, load_processing
from narrowtune.probes.probing import Asked, Probing, caption_prompts, prepare_probing
from narrowtune.probes.reference import Reference
from narrowtune.probes.watching import Watch
from narrowtune.training import Hooks, Settings, StepResult, run_stage

EVERY = 20
ROWS: int = ProbeSpec(probe="kl").rows_during
TASKS = ("charts", "existence", "reading")
RECIPE, BATCH, ROUNDS, STRETCH = "gate-up", 16, 5, 3
VOCABULARY, PROMPT, ANSWER = 151_936, (60, 140), (2, 8)


@dataclass
class Subject:
    """A model in training, and what is read from it."""

    name: str
    model: nn.Module
    rows: Sequence[Encoded]
    processing: Processing
    watch: Watch


def pico_subject(folder: Path, captions: bool) -> Subject:
    """`pico-qwen` on drawn counting questions, with or without captions of its own."""
    processing = load_processing("pico-qwen")
    pico.write(folder, "counting", "train", 96)
    tests = {task: _tested(folder, task) for task in TASKS}
    rows = encode_all(read_examples(folder / "counting" / "train.jsonl"), processing)
    every_row = [row for found in tests.values() for row in found]
    probes = frozenset({"number_bias"} if captions else {"kl", "answer_bias"})
    prompts = caption_prompts(every_row, ROWS)
    asked = Asked(probes, tests, prompts, {"counting": rows}, max_new_tokens=64)
    name = "pico-qwen, captions" if captions else "pico-qwen"
    model = load_model("pico-qwen", device="cpu", dtype="float32")
    return Subject(name, model, rows, processing, Watch(prepare_probing(asked, processing)))


def _tested(folder: Path, task: str) -> list[Example]:
    pico.write(folder, task, "test", ROWS)
    return read_examples(folder / task / "test.jsonl")


def text_subject() -> Subject:
    """A Qwen2 of 512 wide and 8 layers on drawn tokens, with a real vocabulary's size."""
    draw, processing = random.Random(0), load_processing("pico-qwen")
    texts = {task: [_drawn(draw) for _ in range(ROWS)] for task in TASKS}
    references = [Reference(task, rows, processing) for task, rows in texts.items()]
    rows = [_drawn(draw) for _ in range(96)]
    watch = Watch(Probing(references, (), None, processing))
    return Subject("Qwen2, random", qwen2(VOCABULARY, tied=True), rows, processing, watch)


def _drawn(draw: random.Random) -> Encoded:
    turns = (Message("user", (TextPart("?"),)), Message("assistant", (TextPart("!"),)))
    prompt, answer = draw.randint(*PROMPT), draw.randint(*ANSWER)
    ids = tuple(draw.randrange(VOCABULARY) for _ in range(prompt + answer))
    example = Example("drawn", turns, "drawn", ("!",))
    return Encoded(example, ids, (False,) * prompt + (True,) * answer, prompt)


def measure(subject: Subject) -> tuple[Timing, Timing]:
    """Stretches of steps without a look and with one, in turns."""
    model, engine = subject.model, Engine("cpu")
    subject.watch.remember(model)
    named = Anatomy.of(model).select([RECIPE]).apply(model)
    batch = partial(collate, processing=subject.processing, padding_side="right")
    model.train()
    timings = (Timing(), Timing())
    for turn in range(ROUNDS + 1):
        for timing, looking in zip(timings, (False, True), strict=True):

            def on_step(result: StepResult, looking: bool = looking) -> None:
                if looking and result.step == STRETCH:
                    subject.watch.look(model)

            hooks = Hooks(Path("none"), every_seconds=1e9, on_step=on_step)
            wall, cpu = time.perf_counter(), time.process_time()
            run_stage(model, named, (subject.rows, batch), _settings(turn), engine, hooks)
            if turn:  # the first round warms up
                timing.wall.append(time.perf_counter() - wall)
                timing.cpu.append(time.process_time() - cpu)
    return timings


def _settings(turn: int) -> Settings:
    """The same batches with a look and without."""
    return Settings(STRETCH, BATCH, BATCH, learning_rate=1e-5, seed=turn)


def _print(subject: Subject, timings: tuple[Timing, Timing]) -> None:
    without, with_look = timings
    step = statistics.median(without.cpu) / STRETCH
    looks = [b - a for a, b in zip(without.cpu, with_look.cpu, strict=True)]
    look = statistics.median(looks)
    print(
        f"{subject.name:<20} {step:11.2f} {look:11.2f} {min(looks):6.2f} to {max(looks):5.2f}"
        f" {100 * look / step / EVERY:14.1f} %"
    )


def main() -> None:
    """Print CPU seconds of a step and of a look, and a look's share of EVERY steps."""
    print(
        f"{RECIPE}, batches of {BATCH}; looks at {ROWS} rows of {len(TASKS)} tasks;"
        f" {torch.get_num_threads()} threads"
    )
    print(
        f"{'model':<20} {'step, CPU s':>11} {'look, CPU s':>11} {'of all rounds':>15}"
        f" {'every ' + str(EVERY):>16}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for captions in (False, True):
            subject = pico_subject(Path(folder), captions)
            _print(subject, measure(subject))
    subject = text_subject()
    _print(subject, measure(subject))


if __name__ == "__main__":
    main()
