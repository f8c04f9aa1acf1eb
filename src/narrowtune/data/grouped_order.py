"""The order of an epoch that keeps what belongs together, the questions on an image, in one step.

It is another order of learning than `epoch_order`'s: images are shuffled, not samples, so the
samples of a step are less mixed. In exchange a step passes each of its images once.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence

from narrowtune.data.order import WINDOW

Group = list[int]


def grouped_order(
    lengths: Sequence[int], groups: Sequence[Hashable], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """The batches of one epoch as indices, the same on every machine for the same seed.

    Groups are shuffled, sorted by length inside windows of 50 batches, and put whole into batches
    as long as they fit; the last place of a batch may get a part of one, whose rest comes next.
    The batches are shuffled. All are full but the last, which the shuffle picks, as in
    `epoch_order`: an epoch has as many steps as there.

    Args:
        lengths: Tokens of each sample.
        groups: What each sample belongs to (`sharing.groups`).
        batch_size: Samples per optimiser step.
        seed: The experiment's seed.
        epoch: Counted from 0; each epoch has its own order.
    """
    draw = random.Random(f"narrowtune grouped order {seed} {epoch}")
    shuffled = _shuffled(groups, draw)
    last = _cut(shuffled, len(lengths) % batch_size)
    batches: list[list[int]] = []
    while shuffled:
        window = _cut(shuffled, WINDOW * batch_size)
        window.sort(key=lambda group: max(lengths[member] for member in group))
        while window:
            batches.append(_batch(window, batch_size))
    draw.shuffle(batches)
    return batches + ([[member for group in last for member in group]] if last else [])


def _shuffled(groups: Sequence[Hashable], draw: random.Random) -> list[Group]:
    """The members of each group, in drawn orders."""
    members: dict[Hashable, Group] = {}
    for number, name in enumerate(groups):
        members.setdefault(name, []).append(number)
    shuffled = list(members.values())
    draw.shuffle(shuffled)
    for group in shuffled:
        draw.shuffle(group)
    return shuffled


def _cut(groups: list[Group], samples: int) -> list[Group]:
    """Takes so many samples off the end, the last group of them in part; fewer where few are."""
    taken: list[Group] = []
    while groups and samples > 0:
        group = groups.pop()
        if len(group) > samples:
            groups.append(group[samples:])
            group = group[:samples]
        taken.append(group)
        samples -= len(group)
    return taken


def _batch(window: list[Group], batch_size: int) -> list[int]:
    """A full batch off the window's front: the next group, and those after it that fit."""
    batch: list[int] = []
    place = 0
    while window and (room := batch_size - len(batch)):
        if place == len(window) or (not batch and len(window[0]) > room):
            batch += window[0][:room]  # nothing fits: a part of the first
            window[0] = window[0][room:]
        elif len(window[place]) <= room:
            batch += window.pop(place)
        else:
            place += 1
    return batch
