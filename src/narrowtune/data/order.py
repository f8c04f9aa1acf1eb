"""The order in which samples are taught: seeded, every sample once, like lengths together."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence

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


def order_digest(batches: Sequence[Sequence[int]]) -> str:
    """SHA-256 of an order: equal digests, equal data in equal order."""
    written = json.dumps([list(batch) for batch in batches], separators=(",", ":"))
    return hashlib.sha256(written.encode()).hexdigest()
