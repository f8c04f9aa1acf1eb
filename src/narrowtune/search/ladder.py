"""Which candidates are taught next, and how long: what is decided between two rungs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from narrowtune.analysis.choosing import Standing, ranked, standings
from narrowtune.record import RECORD_NAME, Costs, Planned, Record, RungRow, read_record
from narrowtune.report import read_samples
from narrowtune.runner import Plan
from narrowtune.search.pricing import price_of, prices
from narrowtune.search.rungs import ETA, LEAST, LENGTHS

AT_ONCE = 3
"""Second chances given before looking at the clock again."""


@dataclass(frozen=True)
class Ladder:
    """The rungs so far, as they lie in a search's folder.

    Attributes:
        plan: Of all candidates, of one order and seed.
        folder: The search's.
        candidates: Their names, in the order they are tried.
        allowed_loss: A fraction.
        costs: Measured so far.
        planned: The rungs as designed.
        rungs: Those begun, all carried out.
    """

    plan: Plan
    folder: Path
    candidates: tuple[str, ...]
    allowed_loss: float
    costs: Costs
    planned: tuple[Planned, ...]
    rungs: tuple[RungRow, ...]

    def next(self, left: float) -> tuple[Planned, tuple[str, ...]] | None:
        """The rung to go on with; None where nothing more fits into the seconds that are left."""
        place = len(self.rungs)
        if place < len(self.planned) and (arms := self._planned_arms(place, left)):
            return self.planned[place], arms
        if place >= len(self.planned) and (longer := self._longer(left)):
            return longer
        if place and (others := self._second_chances(left)):
            return self.planned[-1], others
        return None

    def _planned_arms(self, place: int, left: float) -> tuple[str, ...]:
        """The first ones, or as many of the best of the rung before as there is time for.

        Time for two in every later rung is set aside.
        """
        planned, later = self.planned[place], self.planned[place + 1 :]
        if place == 0:
            return self.candidates[: planned.candidates]
        found = self._stood([self.rungs[-1]])
        aside = sum(self._price(found[:LEAST], one) for one in later)
        return self._fitting(found[: planned.candidates], planned, left - aside)

    def _longer(self, left: float) -> tuple[Planned, tuple[str, ...]] | None:
        """A longer rung than was planned, where candidates took less time than was predicted."""
        last = self.planned[-1]
        found = self._stood([row for row in self.rungs if row.steps == last.steps])
        for length in LENGTHS:
            if length <= last.steps or len(found) < LEAST:
                break
            longer = Planned(candidates=max(LEAST, len(found) // ETA), steps=length, tests=1.0)
            arms = self._fitting(found[: longer.candidates], longer, left)
            if len(arms) >= LEAST:
                return longer, arms
        return None

    def _second_chances(self, left: float) -> tuple[str, ...]:
        """Others taught as long as the best, in time left: dropped ones, then those not tried."""
        last = self.planned[-1]
        taught = {arm for row in self.rungs if row.steps == last.steps for arm in row.arms}
        dropped = [one for one in self._stood(self.rungs) if one.arm not in taught]
        if arms := self._fitting(dropped[:AT_ONCE], last, left):
            return arms
        tried = {arm for row in self.rungs for arm in row.arms}
        untried = [name for name in self.candidates if name not in tried][:AT_ONCE]
        one, rung = prices(self.plan, self.costs), last.model_copy(update={"candidates": 1})
        room = (left - one.whole(rung)) / one.of(rung) + 1
        return tuple(untried[: max(0, int(room))])

    def _stood(self, rows: Sequence[RungRow]) -> list[Standing]:
        """The candidates of these rungs, each as it stood last, best first, but those given up."""
        given_up = {one.arm for row in self.rungs for one in self._record(row).diverged}
        last = {one.arm: one for row in rows for one in self._standings(row)}
        return ranked([one for one in last.values() if one.arm not in given_up], self.allowed_loss)

    def _standings(self, row: RungRow) -> list[Standing]:
        record = self._record(row)
        return standings(record, read_samples(self.folder / row.name, record))

    def _record(self, row: RungRow) -> Record:
        return read_record(self.folder / row.name / RECORD_NAME)

    def _fitting(self, found: Sequence[Standing], rung: Planned, seconds: float) -> tuple[str, ...]:
        """As many of the first ones as there is time for."""
        for count in range(len(found), 0, -1):
            if self._price(found[:count], rung) <= seconds:
                return tuple(one.arm for one in found[:count])
        return ()

    def _price(self, chosen: Sequence[Standing], rung: Planned) -> float:
        taken = {arm: row for row in self.rungs for arm in row.arms}
        known = [(one, taken[one.arm]) for one in chosen]
        return price_of(known, rung, self.costs, self.plan)
