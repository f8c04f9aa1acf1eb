"""The orders and seeds that repeat an experiment, and what can be wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TypeVar

from narrowtune.errors import nearest

T = TypeVar("T")


@dataclass(frozen=True)
class Replicate:
    """One repeat of an experiment: all its arms, the stages in one order, from one seed.

    Attributes:
        number: Which order it is, counted from 1 as the experiment lists them.
        order: The stages' names as they are taught.
        seed: Where the order of the data and all other chance starts.
    """

    number: int
    order: tuple[str, ...]
    seed: int

    @property
    def name(self) -> str:
        """Its place in the run's folder."""
        return f"order-{self.number}/seed-{self.seed}"


def all_orders(
    stages: Sequence[str], orders: Sequence[Sequence[str]] | str
) -> tuple[tuple[str, ...], ...]:
    """The orders that are asked for: `all` permutations, those listed, or the stages as written."""
    if orders == "all":
        return tuple(permutations(stages))
    return tuple(tuple(order) for order in orders) or (tuple(stages),)


def wrong_seeds(seeds: Sequence[int], seed: int) -> list[str]:
    """Sentences about seeds that are given twice, or in two ways."""
    problems = []
    if seeds and seed:
        problems.append(f"give either seed ({seed}) or seeds ({list(seeds)}), not both")
    if repeated := twice(seeds):
        problems.append(f"seeds: {', '.join(map(str, repeated))} stands there twice")
    return problems


def wrong_orders(orders: Sequence[Sequence[str]], stages: Sequence[str]) -> list[str]:
    """Sentences about orders that do not hold every stage once, or stand there twice."""
    problems = [
        f"orders.{place}: {fault}"
        for place, order in enumerate(orders)
        for fault in _faults(order, stages)
    ]
    repeated = twice([tuple(order) for order in orders])
    return problems + [f"orders: {' > '.join(order)} stands there twice" for order in repeated]


def _faults(order: Sequence[str], stages: Sequence[str]) -> list[str]:
    unknown = [name for name in dict.fromkeys(order) if name not in stages]
    missing = [name for name in stages if name not in order]
    faults = [f"{name!r} is no stage; {nearest(name, stages)}" for name in unknown]
    faults += [f"{name!r} stands there twice" for name in twice(order)]
    if missing:
        faults.append(f"it leaves out {', '.join(missing)}; an order holds every stage once")
    return faults


def twice(values: Sequence[T]) -> list[T]:
    """The values that occur more than once, each named once, in order."""
    return [value for value, times in Counter(values).items() if times > 1]
