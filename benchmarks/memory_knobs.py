"""What activation checkpointing and 8-bit moments save, and what they cost.

A Qwen2 of 512 wide with 8 layers, texts of 300 tokens. Seconds are of steps that take turns in one
process, and their losses must agree where nothing is rounded; peaks are of processes of their own.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import statistics
from dataclasses import dataclass, field

import torch

from benchmarks.models import VOCABULARY, copy_of, qwen2
from benchmarks.timing import Timing
from narrowtune.anatomy import Anatomy
from narrowtune.data.batching import Batch
from narrowtune.engine import peak_bytes, reset_peak
from narrowtune.runner.sparing import spared
from narrowtune.training.loop import answer_loss
from narrowtune.training.optimisers import EIGHT_BIT, optimiser_for
from narrowtune.training.weights import TrainedWeights

ROWS, TOKENS, ANSWER, STEPS = 8, 300, 12, 2


@dataclass(frozen=True)
class Knobs:
    """A way of training."""

    name: str
    checkpoints: bool = False
    optim: str = "adamw"


WAYS = (
    Knobs("plain"),
    Knobs("activation_checkpointing", checkpoints=True),
    Knobs(EIGHT_BIT, optim=EIGHT_BIT),
    Knobs("both", checkpoints=True, optim=EIGHT_BIT),
)


@dataclass
class Learner:
    """A model on its way, trained in one way."""

    model: torch.nn.Module
    recipe: str
    knobs: Knobs
    timing: Timing = field(default_factory=Timing)
    anatomy: Anatomy | None = None

    def __post_init__(self) -> None:
        self.anatomy = self.anatomy or Anatomy.of(self.model)
        self.weights = TrainedWeights(self.anatomy.select([self.recipe]).apply(self.model.train()))
        self.optimiser = optimiser_for(self.weights, self.knobs.optim, 1e-4, 0.0)

    def step(self, batch: Batch) -> float:
        """A step as `run` takes it, timed; its loss."""
        asked = self.knobs.checkpoints
        with (
            self.timing.noting(),
            spared(self.model, self.anatomy, ["language"], checkpointing=asked),
        ):
            loss = answer_loss(self.model, batch) / batch.supervised_tokens
            torch.autograd.backward(loss)
            self.weights.collect()
            self.weights.clip(1.0)
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
            self.weights.write_back()
        return float(loss.detach())


def drawn_batch(seed: int) -> Batch:
    """Rows whose last few tokens are the answer."""
    torch.manual_seed(seed)
    ids = torch.randint(0, VOCABULARY, (ROWS, TOKENS))
    supervised = torch.zeros_like(ids, dtype=torch.bool)
    supervised[:, -ANSWER:] = True
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return Batch(inputs, supervised, ids.numel(), ROWS * ANSWER)


def peak_above_model(recipe: str, way: int) -> int:
    """Bytes at the peak of a few steps, less those resident before; in a process of its own."""
    learner = Learner(qwen2(VOCABULARY, tied=True), recipe, WAYS[way])
    gc.collect()
    cpu = torch.device("cpu")
    reset_peak(cpu)
    before = peak_bytes(cpu)
    for number in range(STEPS):
        learner.step(drawn_batch(number))
    return peak_bytes(cpu) - before


def main() -> None:
    """Print CPU seconds per step, ratios taken side by side, and peaks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="gate-up")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    fresh = multiprocessing.get_context("spawn")
    peaks = []
    for way in range(len(WAYS)):
        with fresh.Pool(1) as pool:
            peaks.append(pool.apply(peak_above_model, (asked.recipe, way)))
    model = qwen2(VOCABULARY, tied=True)
    trained = set(Anatomy.of(model).select([asked.recipe]).trained)
    learners = [Learner(copy_of(model, trained), asked.recipe, way) for way in WAYS]
    for number in range(asked.rounds + 1):
        batch = drawn_batch(number)
        losses = [one.step(batch) for one in learners]
        assert losses[0] == losses[1] and losses[2] == losses[3], f"other losses: {losses}"
        if not number:  # the first round warms up
            for one in learners:
                one.timing = Timing()
    _print(asked.recipe, learners, peaks)


def _print(recipe: str, learners: list[Learner], peaks: list[int]) -> None:
    print(f"{recipe}, {ROWS} x {TOKENS} tokens, {ANSWER} answer tokens, fp32, one thread")
    print(f"{'way':<26} {'MiB above':>10} {'/ plain':>8} {'CPU s':>8} {'/ plain (paired)':>18}")
    for one, peak in zip(learners, peaks, strict=True):
        seconds = statistics.median(one.timing.cpu)
        times = one.timing.cpu_times(learners[0].timing)
        print(
            f"{one.knobs.name:<26} {peak / 2**20:10.0f} {peak / peaks[0]:8.2f} {seconds:8.2f} "
            f"{times:17.2f}x"
        )


if __name__ == "__main__":
    main()
