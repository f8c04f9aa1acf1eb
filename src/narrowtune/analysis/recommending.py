"""What a search has shown: the recommended candidate, and what became of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from narrowtune.analysis.choosing import Choice, Standing, choose, standings
from narrowtune.analysis.replicates import Run
from narrowtune.analysis.samples import Samples
from narrowtune.analysis.together import Part, together
from narrowtune.errors import InputError
from narrowtune.experiment import ArmSpec
from narrowtune.record import Record, RungRow, SearchRecord

Fate = Literal[
    "recommended", "comes first", "loses least", "last rung", "dropped", "given up",
    "not finished", "not tried",
]  # fmt: skip


@dataclass(frozen=True)
class RungResult:
    """A rung with the record and the answers of its run."""

    row: RungRow
    record: Record
    samples: Samples


@dataclass(frozen=True)
class Candidate:
    """What became of one candidate.

    Attributes:
        name: Its name.
        fate: In a word.
        rung: The last rung that it was scored in, or given up in; None where there was none.
        standing: How it stood there.
        why: What the fate rests on, where a sentence is needed.
    """

    name: str
    fate: Fate
    rung: RungRow | None = None
    standing: Standing | None = None
    why: str = ""


@dataclass(frozen=True)
class Recommendation:
    """What follows from a search.

    Attributes:
        search: Its record.
        choice: The candidate to use; None where none was scored to the end.
        rung: The one it was chosen in.
        spec: The arm, as it was taught there.
        steps: Optimiser steps it was taught there, over all stages.
        candidates: All of them, those that came furthest first.
    """

    search: SearchRecord
    choice: Choice | None
    rung: RungRow | None
    spec: ArmSpec | None
    steps: int
    candidates: tuple[Candidate, ...]

    @property
    def whole(self) -> bool:
        """Whether the choice was taught all steps of the experiment."""
        return self.rung is not None and self.rung.steps == 1.0

    def of_fate(self, *fates: Fate) -> list[Candidate]:
        """The candidates of these fates."""
        return [one for one in self.candidates if one.fate in fates]


def recommendation(search: SearchRecord, rungs: Sequence[RungResult]) -> Recommendation:
    """What a search has shown so far.

    Args:
        search: Its record.
        rungs: Those that were begun, in order.
    """
    stood = [(rung, standings(rung.record, rung.samples)) for rung in rungs]
    chosen = _longest_told(stood)
    given_up = {row.arm for rung in rungs for row in rung.record.diverged}
    loss = search.allowed_loss
    choice = None if chosen is None else choose(chosen.record, chosen.samples, loss, given_up)
    length = 0.0 if chosen is None else chosen.row.steps
    fates = [_candidate(name, stood, choice, length) for name in search.candidates]
    fates += [Candidate(name, "not tried", why=why) for name, why in search.left_out.items()]
    order = tuple(sorted(fates, key=_place))
    if choice is None or chosen is None:
        return Recommendation(search, None, None, None, 0, order)
    spec = next(arm for arm in chosen.record.experiment.arms if arm.name == choice.best.arm)
    steps = sum(row.steps for row in chosen.record.cost if row.arm == choice.best.arm)
    return Recommendation(search, choice, chosen.row, spec, steps, order)


Stood = Sequence[tuple[RungResult, list[Standing]]]


def _longest_told(stood: Stood) -> RungResult | None:
    """The rungs of the greatest length at which two can be compared, or all there are, as one.

    A length at which the time ran out after one candidate tells nothing of the others.
    """
    lengths = sorted({rung.row.steps for rung, found in stood if found}, reverse=True)
    for least in (2, 1):
        for length in lengths:
            rungs = [rung for rung, _ in stood if rung.row.steps == length]
            scored = {one.arm for rung, found in stood if rung in rungs for one in found}
            missing = [arm for rung in rungs for arm in rung.row.arms if arm not in scored]
            if len(scored) >= least or not missing:
                return _together(rungs)
    return None


def _together(rungs: Sequence[RungResult]) -> RungResult:
    """Rungs of one length as one; the one of most scores where they can't be compared.

    They can't where one was carried out on other hardware, on which the base answers otherwise.
    """
    most = max(rungs, key=lambda one: len(one.record.scores))
    parts = [Part(one.row.name, one.record, [Run(one.record, one.samples)]) for one in rungs]
    try:
        _, runs = together(parts)
    except InputError:
        return most
    return RungResult(most.row, runs[0].record, runs[0].samples)


def _candidate(name: str, stood: Stood, choice: Choice | None, length: float) -> Candidate:
    taken = [(rung, found) for rung, found in stood if name in rung.row.arms]
    if not taken:
        return Candidate(name, "not tried", why="no time")
    for rung, _ in taken:
        for row in rung.record.diverged:
            if row.arm == name:
                return Candidate(name, "given up", rung.row, why=row.reason)
    if choice is not None and name == choice.best.arm:
        at = next(rung.row for rung, _ in reversed(taken) if rung.row.steps == length)
        return Candidate(name, _fate(choice), at, choice.best)
    rung, found = taken[-1]
    own = {one.arm: one for one in found}
    if name not in own:
        return _unfinished(name, taken)
    fate: Fate = "dropped" if rung.row.steps < length else "last rung"
    return Candidate(name, fate, rung.row, own[name])


def _fate(choice: Choice) -> Fate:
    if choice.usable:
        return "recommended"
    return "comes first" if choice.within else "loses least"


def _unfinished(name: str, taken: Stood) -> Candidate:
    """One whose last rung was cut short; how it stood in the one before, if there was one."""
    for rung, found in reversed(taken[:-1]):
        for one in found:
            if one.arm == name:
                return Candidate(name, "not finished", rung.row, one, "the time ran out")
    return Candidate(name, "not finished", why="the time ran out")


def _place(one: Candidate) -> tuple[bool, float, float]:
    """The recommended first, then those taught longer, by what they learned."""
    reached = one.rung.steps if one.rung is not None else 0.0
    learned = one.standing.learning.value if one.standing is not None else -1.0
    return one.fate not in ("recommended", "comes first", "loses least"), -reached, -learned
