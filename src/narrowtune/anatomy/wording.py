"""Many tensor names in few lines: `model.layers.{0-31}.mlp.up_proj.weight`."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


def shortened(names: Mapping[str, Hashable]) -> list[tuple[str, list[str]]]:
    """Names that differ in numbers alone and have the same value, as one pattern each.

    Args:
        names: Each name with what must be equal for two names to share a pattern.

    Returns:
        Patterns in the order their first names have, each with its names. With two numbers in a
        name the pattern shows the values of each, not every pair.
    """
    groups: dict[tuple[str, Hashable], list[str]] = {}
    for name, value in names.items():
        groups.setdefault((_NUMBER.sub("{}", name), value), []).append(name)
    return [(_filled(form, members), members) for (form, _), members in groups.items()]


def ranges(numbers: Iterable[int]) -> str:
    """Numbers with their runs shortened: `0-3,7`."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(lo) if lo == hi else f"{lo}-{hi}" for lo, hi in runs)


def _filled(form: str, names: Iterable[str]) -> str:
    """The form with the numbers that its names have at each place."""
    columns = zip(*(map(int, _NUMBER.findall(name)) for name in names), strict=True)
    texts = (ranges(column) for column in columns)
    return form.format(*(text if text.isdigit() else f"{{{text}}}" for text in texts))
