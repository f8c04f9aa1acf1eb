"""What follows from a frontier, in sentences made by rule.

A family is said to keep or to learn more than another only where the interval of their difference
does not hold 0, and where the other's value is no mere lower bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from narrowtune.analysis.families import Family, Frontier, Gap, Matched, Quantity, Ranged
from narrowtune.analysis.wording import listed, signed

MOST_TOLD = 6
"""With more differences than these at a level, only names are told."""


@dataclass(frozen=True)
class Lead:
    """One family clearly ahead of another."""

    winner: str
    loser: str
    gap: Ranged


def sentences(found: Frontier) -> list[str]:
    """What is clear at each level, who did not get there, and of whom nothing can be said."""
    if len(found.families) < 2:
        return ["There is one family of arms, so there is nothing to compare."]
    if found.best.learning.value <= 0:
        return ["No arm learned, so there is no learning to match."]
    if not found.draws:
        return ["Without the models' answers there are no intervals, so nothing is claimed."]
    return [*_kept_sentences(found), *_learned_sentences(found)]


def leads(found: Frontier, quantity: Quantity, level: float | None) -> list[Lead]:
    """Pairs of families of which one is clearly ahead at a level, by the rule above."""
    bounds = {family.name for family in found.families if _is_bound(family, quantity, level)}
    ahead = [
        _lead(gap)
        for gap in found.gaps
        if (gap.quantity, gap.level) == (quantity, level) and gap.difference.clear
    ]
    return [one for one in ahead if one.loser not in bounds]


def interval(value: Ranged, scale: str = "points") -> str:
    """A value with its interval: `+12.3 points [+10.1, open]`."""
    low, high = ("open" if end is None else signed(end) for end in (value.low, value.high))
    return f"{signed(value.value)} {scale} [{low}, {high}]"


def _kept_sentences(found: Frontier) -> Iterator[str]:
    for place, level in enumerate(found.levels):
        points = signed(level * found.best.learning.value)
        at = f"At {100 * level:g} % of the best learning ({points} points)"
        values = {family.name: family.kept_at[place] for family in found.families}
        yield _sentence(at, values, leads(found, "kept", level), ("kept", "gets there"))


def _learned_sentences(found: Frontier) -> Iterator[str]:
    """At the highest level of drift alone: the others are in the table."""
    levels = [one.level for one in found.families[0].learned_at]
    if levels:
        values = {family.name: family.learned_at[-1] for family in found.families}
        at = f"With a drift of {levels[-1]:.3g} nats per token"
        ahead = leads(found, "learned", levels[-1])
        yield _sentence(at, values, ahead, ("learned", "drifts so little"))


def _sentence(
    at: str, values: Mapping[str, Matched], ahead: Sequence[Lead], words: tuple[str, str]
) -> str:
    verb, gets_there = words
    there = [name for name, one in values.items() if one.value is not None]
    if len(there) == 1:
        return f"{at}, {there[0]} stands alone: no other family {gets_there}."
    parts = [_told(ahead, verb) or f"no family clearly {verb} more than another"]
    if bounds := _unjudged(values, ahead):
        parts.append(
            f"{listed(bounds)} cannot be shown to have {verb} less, for want of a cell on the "
            "near side"
        )
    if rare := [name for name, one in values.items() if one.value and one.value.low is None]:
        parts.append(f"{listed(rare)} may not get there, so nothing is said of it")
    if gone := [name for name in values if name not in there]:
        parts.append(f"no cell of {' or '.join(gone)} {gets_there}")
    return f"{at}, {'; '.join(parts)}."


def _told(ahead: Sequence[Lead], verb: str) -> str:
    """Winner by winner, whom it is clearly ahead of."""
    parts = []
    for winner in dict.fromkeys(one.winner for one in ahead):
        beaten = [one for one in ahead if one.winner == winner]
        names = [
            one.loser if len(ahead) > MOST_TOLD else f"{one.loser} (by {interval(one.gap)})"
            for one in beaten
        ]
        parts.append(f"{winner} {verb} clearly more than {listed(names)}")
    return "; ".join(parts)


def _unjudged(values: Mapping[str, Matched], ahead: Sequence[Lead]) -> list[str]:
    """Families whose value is a lower bound, and that are not clearly ahead all the same."""
    winners = {one.winner for one in ahead}
    return [name for name, one in values.items() if one.at_least and name not in winners]


def _lead(gap: Gap) -> Lead:
    value = gap.difference
    if value.value > 0:
        return Lead(gap.family, gap.other, value)
    low, high = (None if end is None else -end for end in (value.high, value.low))
    return Lead(gap.other, gap.family, Ranged(-value.value, low, high))


def _is_bound(family: Family, quantity: Quantity, level: float | None) -> bool:
    at = {"kept": family.kept_at, "learned": family.learned_at, "area": ()}[quantity]
    return any(one.at_least for one in at if one.level == level)
