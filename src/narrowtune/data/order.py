"""The order in which samples are taught: seeded, every sample once, like lengths together."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice

WINDOW = 50  # batches sorted by length together: enough to save padding, few enough to stay random


def epoch_order(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch as indices, the same on every machine for the same seed.

    Samples are shuffled, sorted by length inside windows of 50 batches, cut into batches, and the
    batches shuffled. What does not fill a batch comes last, picked by the shuffle and not by its
    length.

    Args:
        lengths: Tokens of each sample.
        batch_size: Samples per optimiser step.
        seed: The experiment's seed.
        epoch: Counted from 0; each epoch has its own order.
    """
    draw = random.Random(f"narrowtune order {seed} {epoch}")
    shuffled = list(range(len(lengths)))
    draw.shuffle(shuffled)
    whole = len(shuffled) - len(shuffled) % batch_size
    batches: list[list[int]] = []
    for start in range(0, whole, WINDOW * batch_size):
        window = shuffled[start : min(start + WINDOW * batch_size, whole)]
        window.sort(key=lengths.__getitem__)
        batches += [window[i : i + batch_size] for i in range(0, len(window), batch_size)]
    draw.shuffle(batches)
    return batches + ([shuffled[whole:]] if whole < len(shuffled) else [])


@dataclass(frozen=True)
class Mix:
    """Which share of samples is drawn from elsewhere, and the seed that draws them."""

    ratio: float
    seed: int


def mixed_order(
    batches: Iterable[Sequence[int]], others: Sequence[int], steps: int, size: int, mix: Mix
) -> list[list[int]]:
    """Batches of `size` in which a share is drawn from `others`, the rest from `batches` in turn.

    Before any step the drawn samples number the share of all samples so far, rounded down: over any
    stretch of steps the ratio holds to within one sample. Every one of `others` comes once before
    any comes again.

    Args:
        batches: The stage's own batches, without end.
        others: Indices of the samples that are drawn.
        steps: How many batches.
        size: Samples of each.
        mix: The share, and the seed.
    """
    own = chain.from_iterable(batches)
    drawn = _in_rounds(others, mix.seed)
    made = []
    for step in range(steps):
        so_far, before = (math.floor(n * mix.ratio * size) for n in (step + 1, step))
        made.append([*islice(own, size - so_far + before), *islice(drawn, so_far - before)])
    return made


def _in_rounds(indices: Sequence[int], seed: int) -> Iterator[int]:
    """All of them in a drawn order, then all in another, without end."""
    for number in count():
        order = list(indices)
        random.Random(f"narrowtune replay {seed} {number}").shuffle(order)
        yield from order


def order_digest(batches: Sequence[Sequence[int]]) -> str:
    """SHA-256 of an order: equal digests, equal data in equal order."""
    written = json.dumps([list(batch) for batch in batches], separators=(",", ":"))
    return hashlib.sha256(written.encode()).hexdigest()
