"""narrowtune's step against other people's trainers: TRL, HF Trainer, PEFT LoRA.

The same model, data order, batches, dtype, optimiser and steps; the contestants take turns step by
step in one process. Nothing is printed unless their losses agree. Random weights of real classes
with a real vocabulary: what is measured is arithmetic, not ability. Data preparation is left out
for all alike.

python -m benchmarks.peers [--rounds N] [--shapes ...] [--scenes ...] [--arms ...]

All of it takes two cores some hours; name a shape, a scene, an arm or contestants to take less.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import nn

from benchmarks.contestants import CONTESTANTS, OURS, Contestant
from benchmarks.flops import Product, SecondStepCounted
from benchmarks.models import LLAVA, QWEN, Shape, copy_of, drawn_model, processing_of
from benchmarks.peak_memory import peak_above_model
from benchmarks.scenes import SCENES, Lesson, Scene, lesson
from benchmarks.stopwatch import shares
from benchmarks.timing import Timing
from benchmarks.turns import Turns
from narrowtune.anatomy import Anatomy

SHAPES = {"qwen": QWEN, "llava": LLAVA}
ARMS = ("gate-up", "attention", "language")
TOLERANCE = 1e-5  # relative, in fp32
UNTIMED = 2  # steps: one fills, one is counted


@dataclass
class Result:
    """What one contestant did.

    Attributes:
        losses: Of each step.
        timing: Of each step but the first ones.
        flops: Executed in a step.
        peak: Bytes above the loaded model; None where it was not measured.
    """

    losses: list[float]
    timing: Timing
    flops: int
    peak: int | None = None


@dataclass
class Match:
    """A comparison on one model, scene and arm.

    Attributes:
        results: By contestant's name.
        best: The machine's, measured between the steps.
        parts: Where narrowtune's time goes, as shares.
    """

    results: dict[str, Result]
    best: Product
    parts: dict[str, float] = field(default_factory=dict)


def compete(model: nn.Module, taught: Lesson, contestants: Sequence[Contestant]) -> Match:
    """All contestants' steps in turns, the first ones of each untimed.

    Raises:
        AssertionError: Their losses differ.
    """
    trained = _trained(model, taught.arm)
    best, loops = Product(), {}
    for one in contestants:
        own = copy_of(model, set() if one.adapters else trained)
        loops[one.name] = SecondStepCounted(partial(one.train, own, taught))
    turns = {name: Turns(loop) for name, loop in loops.items()}
    timings = {one.name: Timing() for one in contestants}
    for number in range(taught.settings.steps):
        best.time()
        for name, turn in turns.items():
            with (timings[name] if number >= UNTIMED else Timing()).noting():
                turn.step()
    for turn in turns.values():
        turn.finish()
    check(contestants, {name: turn.losses for name, turn in turns.items()})
    results = {n: Result(turns[n].losses, timings[n], loops[n].flops) for n in turns}
    return Match(results, best)


def _trained(model: nn.Module, arm: str) -> set[str]:
    return set(Anatomy.of(model).select([arm]).trained)


def check(contestants: Sequence[Contestant], losses: dict[str, list[float]]) -> None:
    """Losses agree: at the first step everybody's, later on those that train the same.

    Raises:
        AssertionError: They differ by more than TOLERANCE.
    """
    groups = [[losses[one.name][:1] for one in contestants]]
    groups += [
        [losses[one.name] for one in contestants if one.adapters is alike]
        for alike in (False, True)
    ]
    for group in groups:
        for step in zip(*group, strict=True):
            spread = max(step) / min(step) - 1
            assert spread < TOLERANCE, f"the contestants compute different losses: {losses}"


def main() -> None:
    """Print samples per second, ratios taken side by side, memory, FLOPs and where time goes."""
    asked = _parse()
    print(f"fp32, {torch.get_num_threads()} threads; a step: batch, loss, backward, clip, AdamW")
    for shape in asked.shapes:
        with tempfile.TemporaryDirectory() as folder:
            _compare(SHAPES[shape], Path(folder), asked)


def _compare(shape: Shape, folder: Path, asked: argparse.Namespace) -> None:
    place = shape.write(folder / "model"), folder
    processing, model = processing_of(place[0]), drawn_model(place[0])
    chosen = [CONTESTANTS[number] for number in asked.contestants]
    for number, arm in product(asked.scenes, asked.arms):
        scene = SCENES[number]
        taught = lesson(scene, arm, processing, folder, asked.rounds + UNTIMED)
        match = compete(model, taught, chosen)
        gc.collect()  # trainers are circles, which hold their models
        if not asked.speed_only:
            short = lesson(scene, arm, processing, folder, 2)
            own = copy_of(model, _trained(model, arm))
            match.parts = shares(own, arm, partial(OURS.train, own, short))
            for one in chosen:
                peak = peak_above_model(place, number, arm, CONTESTANTS.index(one))
                match.results[one.name].peak = peak
        _print(f"{shape.name}, {scene.name}, {arm}", (scene, taught), match)


def _print(title: str, about: tuple[Scene, Lesson], match: Match) -> None:
    scene, taught = about
    lengths = [len(row) for row in taught.rows]
    print(f"\n{title}: {scene.rows} rows of {min(lengths)} to {max(lengths)} tokens a step")
    print(
        f"{'contestant':<28} {'wall s':>7} {'CPU s':>7} {'rows/s':>7} {'CPU / ours':>10} "
        f"{'peak MiB':>8} {'GFLOP':>7} {'of peak':>7}"
    )
    base = match.results[OURS.name].timing if OURS.name in match.results else None
    for name, result in match.results.items():
        wall, cpu = statistics.median(result.timing.wall), statistics.median(result.timing.cpu)
        ratio = f"{result.timing.cpu_times(base):9.2f}x" if base else f"{'-':>10}"
        peak = "-" if result.peak is None else f"{result.peak / 2**20:.0f}"
        share = result.flops / cpu / match.best.per_cpu_second
        print(
            f"{name:<28} {wall:7.2f} {cpu:7.2f} {scene.rows / wall:7.2f} {ratio} "
            f"{peak:>8} {result.flops / 1e9:7.0f} {100 * share:6.0f} %"
        )
    parts = ", ".join(f"{part} {100 * share:.1f} %" for part, share in match.parts.items())
    print(f"narrowtune's step: {parts or 'not taken apart'}", flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    everything = range(len(SCENES)), range(len(CONTESTANTS))
    named = [", ".join(f"{n} {x.name}" for n, x in enumerate(xs)) for xs in (SCENES, CONTESTANTS)]
    parser.add_argument("--rounds", type=int, default=3, help="timed steps of each (3)")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), help="recipes or terms")
    parser.add_argument("--scenes", nargs="+", type=int, default=everything[0], help=named[0])
    parser.add_argument("--contestants", nargs="+", type=int, default=everything[1], help=named[1])
    parser.add_argument("--speed-only", action="store_true", help="no memory, no parts of a step")
    return parser.parse_args()


if __name__ == "__main__":
    main()
