"""Reading a time of day out of an answer."""

from __future__ import annotations

import re

from narrowtune.evaluation.reading.words import conclusion, fold

MINUTES_ON_DIAL = 12 * 60
_ONE_TO_TWELVE = "one two three four five six seven eight nine ten eleven twelve"
_HOURS = _ONE_TO_TWELVE.split()
_TIME = re.compile(
    rf"""
    (?<![\d:.]) (?P<hour>\d{{1,2}}) \s?:\s? (?P<minute>[0-5]\d) (?::[0-5]\d(?:\.\d+)?)? (?![\d:])
  | (?<![\w:]) (?P<full>\d{{1,2}}|{"|".join(_HOURS)}) \s* o\s?'?\s?clock\b
    """,
    re.VERBOSE | re.ASCII,
)


def read_clock(text: str) -> int | None:
    """Minutes past twelve on the 12-hour dial (0 to 719) of the time an answer gives, or None.

    Reads HH:MM and "3 o'clock"; seconds and am/pm are ignored, 24-hour times wrap round. After
    an explicit final marker the first time counts, without one the last.
    """
    folded = fold(text)
    tail = conclusion(folded)
    if tail is not None and (times := _times(tail)):
        return times[0]
    times = _times(folded)
    return times[-1] if times else None


def dial_distance(one: int, other: int) -> int:
    """Minutes between two times, the shorter way round the dial (0 to 360)."""
    apart = abs(one - other) % MINUTES_ON_DIAL
    return min(apart, MINUTES_ON_DIAL - apart)


def _times(folded: str) -> list[int]:
    """Every time in the text, as minutes on the dial."""
    found = []
    for match in _TIME.finditer(folded):
        word = match["hour"] or match["full"]
        hour = _HOURS.index(word) + 1 if word in _HOURS else int(word)
        if hour <= 24:
            found.append((60 * hour + int(match["minute"] or 0)) % MINUTES_ON_DIAL)
    return found
