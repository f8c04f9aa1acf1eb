"""How far an answer agrees with the accepted ones, 0 to 1; no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from narrowtune.evaluation.reading.clock import dial_distance

Comparison = Callable[[Any, Sequence[Any]], float]
"""What an answer is worth, given all accepted ones as read; None stands for an unreadable one."""

CLOCK_TOLERANCE_MINUTES = 1
RELAXED_TOLERANCE = Decimal("0.05")
ANLS_THRESHOLD = 0.5
ENOUGH_ANNOTATORS = 3
"""Of the others, so many must have given an answer for it to be wholly right (VQA accuracy)."""


def best(agree: Callable[[Any, Any], float]) -> Comparison:
    """The highest agreement with any accepted answer, in the order (said, accepted)."""

    def compare(said: Any, accepted: Sequence[Any]) -> float:
        readable = (value for value in accepted if value is not None)
        return max((float(agree(said, value)) for value in readable), default=0.0)

    return compare


def times_agree(said: int, accepted: int) -> bool:
    """Whether two times, in minutes, lie at most one minute apart on the dial."""
    return dial_distance(said, accepted) <= CLOCK_TOLERANCE_MINUTES


def relaxed(said: Decimal | str, accepted: Decimal | str) -> bool:
    """Whether a number lies within 5 % of the accepted one, or words are the same.

    Relaxed accuracy of Methani et al. (2020), section 5, and Masry et al. (2022), section 5.1,
    in exact arithmetic: 5 % is in, and zero has no room around it.
    """
    if isinstance(said, Decimal) and isinstance(accepted, Decimal):
        return abs(said - accepted) <= RELAXED_TOLERANCE * abs(accepted)
    return said == accepted


def word_f1(said: str, accepted: str) -> float:
    """Harmonic mean of precision and recall over words (Rajpurkar et al. 2016, section 6.1).

    Each word counts as often as both have it. 2 PR / (P + R) is 2 common / (all words of both).
    """
    words, wanted = Counter(said.split()), Counter(accepted.split())
    common = (words & wanted).total()
    return 2 * common / (words.total() + wanted.total())


def anls(said: str, accepted: str) -> float:
    """Normalised Levenshtein similarity, 0 below one half (Biten et al. 2019, equation 1).

    1 - distance / characters of the longer text. At exactly one half the paper's equation says 0
    and the evaluation code of its challenges, which published scores come from, 0.5: this too.
    """
    similarity = 1 - edit_distance(said, accepted) / max(len(said), len(accepted))
    return similarity if similarity >= ANLS_THRESHOLD else 0.0


def edit_distance(one: str, other: str) -> int:
    """The fewest insertions, deletions and substitutions of a character that join two texts.

    Wagner and Fischer (1974), one row at a time: ten lines, so no compiled dependency for them.
    """
    row = list(range(len(other) + 1))
    for deleted, letter in enumerate(one, start=1):
        corner, row[0] = row[0], deleted
        for at, wanted in enumerate(other, start=1):
            changed = corner + (letter != wanted)
            corner, row[at] = row[at], min(changed, row[at] + 1, row[at - 1] + 1)
    return row[-1]


def consensus(said: str, accepted: Sequence[str | None]) -> float:
    """VQA accuracy: min(others who said so / 3, 1), the mean over leaving out each annotator.

    Antol et al. (2015), with the mean over subsets of their evaluation code: with ten annotators
    0.3, 0.6, 0.9 and 1 for an answer that one, two, three and four or more of them gave.
    """
    matches = sum(value == said for value in accepted)
    others = len(accepted) - matches
    in_favour = matches * _backed(matches - 1) + others * _backed(matches)
    return in_favour / len(accepted)


def _backed(by: int) -> float:
    return min(max(by, 0) / ENOUGH_ANNOTATORS, 1.0)
