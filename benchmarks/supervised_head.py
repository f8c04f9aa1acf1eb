"""The head at supervised positions against full logits, and narrow recipes against wide ones.

Random weights of a real class with a real vocabulary size: what is measured is arithmetic, not
ability. The variants take turns step by step in one process, so that a machine whose speed
drifts treats them alike; CPU seconds (both threads) stand beside wall seconds.
"""

from __future__ import annotations

import statistics

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.models import qwen2
from benchmarks.timing import Timing, timed_step
from narrowtune.anatomy import Anatomy
from narrowtune.data.batching import Batch
from narrowtune.training.loop import answer_loss

VOCABULARY, ROWS, TOKENS, ANSWER = 151_936, 2, 288, 4
RECIPES = ("language", "attention", "gate-up")
ROUNDS = 3


def build_batch() -> Batch:
    """Rows whose last few tokens are the answer, as in visual question answering."""
    ids = torch.randint(0, VOCABULARY, (ROWS, TOKENS))
    supervised = torch.zeros_like(ids, dtype=torch.bool)
    supervised[:, -ANSWER:] = True
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return Batch(inputs, supervised, ids.numel(), ROWS * ANSWER)


def full_logits_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The usual way: logits everywhere, ignored where nothing is learned."""
    logits = model(**batch.inputs, use_cache=False).logits[:, :-1]
    labels = batch.inputs["input_ids"].masked_fill(~batch.supervised, -100)[:, 1:]
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum")


def main() -> None:
    """Print wall and CPU seconds per step, and ratios taken side by side."""
    model, batch = qwen2(VOCABULARY, tied=True).train(), build_batch()
    anatomy = Anatomy.of(model)
    variants = [(recipe, "full", full_logits_loss) for recipe in RECIPES]
    variants += [(recipe, "supervised", answer_loss) for recipe in RECIPES]
    timings = {(recipe, head): Timing() for recipe, head, _ in variants}
    for turn in range(ROUNDS + 1):
        losses = []
        for recipe, head, loss in variants:
            anatomy.select([recipe]).apply(model)
            timing = timings[recipe, head] if turn else Timing()  # the first round warms up
            losses.append(timed_step(model, loss, batch, timing))
        spread = max(losses) / min(losses) - 1
        assert spread < 1e-5, f"the variants compute different losses: {losses}"
    _print(timings)


def _print(timings: dict[tuple[str, str], Timing]) -> None:
    slowest = timings["language", "full"]
    print(f"{ROWS} rows x {TOKENS} tokens, {ANSWER} answer tokens, vocabulary {VOCABULARY:,}")
    print(
        f"{'recipe':<10} {'head at':<11} {'wall s':>8} {'CPU s':>8} {'speed-up (CPU, paired)':>24}"
    )
    for (recipe, head), timing in timings.items():
        ratio = statistics.median(a / b for a, b in zip(slowest.cpu, timing.cpu, strict=True))
        wall, cpu = statistics.median(timing.wall), statistics.median(timing.cpu)
        print(f"{recipe:<10} {head:<11} {wall:8.2f} {cpu:8.2f} {ratio:23.2f}x")


if __name__ == "__main__":
    main()
