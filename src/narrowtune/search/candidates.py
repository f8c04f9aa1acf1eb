"""What is tried unless the experiment says otherwise, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import chain, zip_longest
from typing import Any

from narrowtune.experiment import ArmSpec

RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
"""Half a decade apart: over two decades the best rate of a whole model and of a part differ."""

ADAPTER_RATES = (3e-4, 1e-3, 3e-3)
"""Adapters begin at nothing and are usually taught about ten times as fast."""


def default_arms(stages: int) -> list[dict[str, Any]]:
    """The ways that are compared when an experiment names none, as plain data.

    LoRA is among them where PEFT is installed.

    Args:
        stages: How many skills are taught; with one there is nothing to replay.
    """
    narrow = ("gate-up", "attention", "language")
    arms: list[dict[str, Any]] = [_swept(recipe, recipe, RATES) for recipe in narrow]
    if find_spec("peft") is not None:
        arms.append(_swept("lora", "language", ADAPTER_RATES, {"lora": {"rank": 16}}))
    halfway = {"wise-ft": {"alpha": 0.5}}
    arms.append(_swept("wise-ft", "language", RATES[2:], halfway))
    if stages > 1:
        arms.append(_swept("replay", "language", RATES[1:4], {"replay": {"ratio": 0.25}}))
    return arms


def in_turn(arms: Sequence[ArmSpec]) -> list[ArmSpec]:
    """All arms, family by family in turn, each family's middle cells first.

    So however many of them there is time for, every family is among them, at its likeliest rates.
    """
    families: dict[str, list[ArmSpec]] = {}
    for arm in arms:
        families.setdefault(arm.family, []).append(arm)
    rounds = zip_longest(*(_middle_first(cells) for cells in families.values()))
    return [arm for arm in chain.from_iterable(rounds) if arm is not None]


def _middle_first(cells: Sequence[ArmSpec]) -> Iterator[ArmSpec]:
    middle = (len(cells) - 1) / 2
    for place in sorted(range(len(cells)), key=lambda place: (abs(place - middle), -place)):
        yield cells[place]


def _swept(
    name: str, recipe: str, rates: Sequence[float], method: dict[str, Any] | None = None
) -> dict[str, Any]:
    arm: dict[str, Any] = {"name": name, "recipe": recipe}
    return arm | ({"method": method} if method else {}) | {"sweep": {"learning_rate": [*rates]}}
