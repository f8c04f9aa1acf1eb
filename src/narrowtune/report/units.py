"""Sizes and times as people read them."""

from __future__ import annotations


def count(number: float) -> str:
    """A count with three significant digits: `845`, `1.50 M`, `7.62 B`."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{_three(number / size)} {unit}"
    return f"{number:.0f}"


def memory(number: float) -> str:
    """Bytes in binary units: `812 MiB`, `1.25 GiB`."""
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= size:
            return f"{_three(number / size)} {unit}"
    return f"{number:.0f} B"


def duration(seconds: float) -> str:
    """A time: `8.2 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def share(part: float, whole: float) -> str:
    """A part in percent of the whole, with the digits a small part needs."""
    percent = 100 * part / whole if whole else 0.0
    return f"{percent:.1f} %" if percent >= 0.1 or percent == 0 else f"{percent:.2g} %"


def _three(number: float) -> str:
    digits = 2 if number < 10 else 1 if number < 100 else 0
    return f"{number:.{digits}f}"
