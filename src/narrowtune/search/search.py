"""Which way of teaching to use: successive halving over candidates, within a budget."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from narrowtune.analysis.choosing import Standing, ranked, standings
from narrowtune.analysis.wording import counted
from narrowtune.errors import InputError
from narrowtune.models.loading import check_device
from narrowtune.record import (
    RECORD_NAME,
    Planned,
    Record,
    RungRow,
    SearchRecord,
    read_record,
    write_search,
)
from narrowtune.report import read_samples
from narrowtune.runner import Observer, Options, Plan, run
from narrowtune.search.budget import Budget, Clock, Watch
from narrowtune.search.candidates import in_turn
from narrowtune.search.folder import open_search
from narrowtune.search.pricing import (
    learned_from,
    measured,
    pilot_plan,
    price_of,
    prices,
    telling_share,
    tests_of,
)
from narrowtune.search.rungs import ETA, LEAST, LENGTHS, designed, least_seconds
from narrowtune.search.shortened import shortened
from narrowtune.training import Interrupted

PILOT = "pilot"
AT_ONCE = 3
"""Second chances given before looking at the clock again."""


def recommend(
    plan: Plan,
    out: str | Path,
    budget: Budget,
    *,
    resume: bool = False,
    options: Options | None = None,
    observer: Observer | None = None,
) -> SearchRecord:
    """Search for the arm to use; the search's record, which also lies in `out`.

    A pilot of a few steps measures what candidates cost. Then rungs: in each about a third of the
    candidates of the one before are taught about three times as long; in time that is left the best
    of the others are taught as long as those. Every rung is a run in a folder of its own, and
    `report.recommended` says what follows from them.

    Args:
        plan: Its arms are the candidates. Of several orders and seeds the first is used.
        out: A folder that is new or empty, or holds this very search when `resume` is set.
        budget: What may be spent; a resumed search may have been given more time.
        resume: Go on where an interrupted search, or one whose time ran out, stopped.
        options: What cannot change a result; `stop` and `save_models` are the search's own.
        observer: Told of progress.

    Raises:
        InputError: If `out` holds something else, nothing is tested or held out, no candidate fits
            the memory, or the time is too short for the smallest search.
        Interrupted: On Ctrl-C; the search can be resumed.
    """
    refuse_unfit(plan)
    alone = _in_order(plan.alone(plan.experiment.replicates[0]))
    state = open_search(Path(out), alone, budget, resume)
    clock = Clock(budget.seconds, state.spent, budget.began)
    search = _Search(alone, Path(out), state, clock)
    search.watched_by(observer or Observer(), options or Options())
    return search.carried_out()


def refuse_unfit(plan: Plan) -> None:
    """Refuse a plan of which nothing could be recommended.

    Raises:
        InputError: If nothing taught is tested, nothing is held out, there is one candidate, or
            several processes would decide by their own clocks.
    """
    problems, roles = [], {task.role for task in plan.tasks}
    if "target" not in roles:
        problems.append("no stage has a test: what is learned can't be compared; give --test")
    if "held_out" not in roles:
        problems.append("nothing is held out: what is lost can't be seen; give --held-out")
    if len(plan.arms) < LEAST:
        problems.append("there is one candidate: name more arms, or a sweep of its learning_rate")
    if set(plan.experiment.evaluate) != {"base", "after_stage"}:
        problems.append("evaluate must hold base and after_stage: candidates are compared by both")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        problems.append("a search runs in one process: it decides by the time that has passed")
    if problems:
        raise InputError(problems)


def _in_order(plan: Plan) -> Plan:
    """The plan with its arms in the order they are tried, each one a cell: it may be given up."""
    cells = [arm.spec.model_copy(update={"of": arm.spec.family}) for arm in plan.arms]
    own = {arm.name: arm for arm in plan.arms}
    ordered = in_turn(cells)
    return replace(
        plan,
        experiment=plan.experiment.model_copy(update={"arms": tuple(ordered)}),
        arms=tuple(replace(own[spec.name], spec=spec) for spec in ordered),
    )


class _Search:
    """A search under way: its record, its clock, and what carries it out."""

    def __init__(self, plan: Plan, folder: Path, state: SearchRecord, clock: Clock) -> None:
        self.plan, self.folder, self.state, self.clock = plan, folder, state, clock
        fitting = set(state.candidates)
        self.plan = replace(plan, arms=tuple(arm for arm in plan.arms if arm.name in fitting))
        self.tests, self.loss = tests_of(plan), state.allowed_loss

    def watched_by(self, observer: Observer, options: Options) -> None:
        """Set who is told, and what cannot change a result."""
        device = check_device(options.device)
        self.observer = Watch(observer, self._note, self.state.memory, str(device))
        self.options = replace(options, save_models=False, stop=self.clock.is_over)

    def carried_out(self) -> SearchRecord:
        """The pilot, then all rungs that there is time for."""
        self._note(status="running")
        try:
            if self.state.costs is None:
                self._pilot()
            if not self.state.planned:
                self._design()
            self._climb()
        except (KeyboardInterrupt, Interrupted):
            self._note(status="interrupted")
            raise
        self._note(status="complete")
        return self.state

    def _pilot(self) -> None:
        small = pilot_plan(self.plan)
        self.observer.note(f"pilot: {small.arms[0].name}, to measure what a step costs")
        try:
            self._note(costs=measured(small, lambda: self._run(small, PILOT)))
        except Interrupted as stopped:
            if self.clock.is_over():
                raise InputError(
                    "the time was used up before one candidate was taught a few steps: go on with "
                    "more --minutes and --resume"
                ) from stopped
            raise

    def _design(self) -> None:
        assert self.state.costs is not None
        one, most = prices(self.plan, self.state.costs), len(self.state.candidates)
        rungs = designed(one, most, self.clock.left, telling_share(self.plan))
        if rungs is None:
            needed = 1.1 * (self.clock.spent + least_seconds(one, most)) / 60
            raise InputError(
                f"{self.state.seconds / 60:.3g} minutes are too few: the smallest search, two "
                f"candidates taught an eighth of the steps, will take about {needed:.3g}; go on "
                "with more --minutes and --resume"
            )
        self._note(planned=tuple(Planned(**asdict(rung)) for rung in rungs))

    def _climb(self) -> None:
        for row in self.state.rungs:
            if not self._teach(row):
                return
        while (after := self._next()) is not None:
            self._note(rungs=(*self.state.rungs, after))
            if not self._teach(after):
                return

    def _next(self) -> RungRow | None:
        """The rung to go on with; None where nothing more is worth its time, or fits into it."""
        place = len(self.state.rungs)
        if place < len(self.state.planned):
            planned, arms = self.state.planned[place], self._arms_of(place)
        elif longer := self._longer():
            planned, arms = longer
            self._note(planned=(*self.state.planned, planned))
        else:
            planned, arms = self.state.planned[-1], self._second_chances()
        if not arms:
            return None
        name = f"rung-{place + 1}"
        return RungRow(name=name, arms=arms, steps=planned.steps, tests=planned.tests)

    def _teach(self, row: RungRow) -> bool:
        """Teach a rung's candidates; False where the time ran out before all were taught."""
        self.observer.note(
            f"{row.name}: {counted(len(row.arms), 'candidate')}, {row.steps:.0%} of the steps, "
            f"{row.tests:.0%} of the test samples"
        )
        small = shortened(self.plan, row.arms, row.steps, row.tests)
        fresh, began = not (self.folder / row.name).exists(), time.monotonic()
        try:
            record = self._run(small, row.name)
        except Interrupted:
            if self.clock.is_over():
                self.observer.note("the time is used up")
                return False
            raise
        if fresh and self.state.costs is not None:
            wall = time.monotonic() - began
            self._note(costs=learned_from(record, small, wall, self.state.costs))
        return True

    def _arms_of(self, place: int) -> tuple[str, ...]:
        """Who is taught in a planned rung: the first ones, or as many of the best as there is time.

        Time for two in every later rung is set aside.
        """
        planned, later = self.state.planned[place], self.state.planned[place + 1 :]
        if place == 0:
            return self.state.candidates[: planned.candidates]
        found = self._standings(self.state.rungs[-1])
        aside = sum(self._price(found[:LEAST], one) for one in later)
        return self._fitting(found[: planned.candidates], planned, self.clock.left - aside)

    def _longer(self) -> tuple[Planned, tuple[str, ...]] | None:
        """A longer rung than was planned, where candidates took less time than was predicted."""
        last = self.state.planned[-1]
        found = self._standings(self.state.rungs[-1])
        for length in LENGTHS:
            if length <= last.steps:
                break
            longer = Planned(candidates=max(LEAST, len(found) // ETA), steps=length, tests=1.0)
            arms = self._fitting(found[: longer.candidates], longer, self.clock.left)
            if len(arms) >= min(LEAST, len(found)):
                return longer, arms
        return None

    def _second_chances(self) -> tuple[str, ...]:
        """Others taught as long as the best, in time left: dropped ones, then those not tried."""
        last, rungs = self.state.planned[-1], self.state.rungs
        taught = {arm for row in rungs if row.steps == last.steps for arm in row.arms}
        stood = {one.arm: one for row in rungs for one in self._standings(row)}
        dropped = ranked([one for one in stood.values() if one.arm not in taught], self.loss)
        if dropped:
            return self._fitting(dropped[:AT_ONCE], last, self.clock.left)
        tried = {arm for row in rungs for arm in row.arms}
        untried = [name for name in self.state.candidates if name not in tried][:AT_ONCE]
        dearest = max(stood.values(), key=lambda one: one.seconds, default=None)
        if dearest is None:
            return ()
        fitting = self._fitting([dearest] * len(untried), last, self.clock.left)
        return tuple(untried[: len(fitting)])

    def _fitting(self, found: Sequence[Standing], rung: Planned, seconds: float) -> tuple[str, ...]:
        """As many of the first ones as there is time for."""
        for count in range(len(found), 0, -1):
            if self._price(found[:count], rung) <= seconds:
                return tuple(one.arm for one in found[:count])
        return ()

    def _standings(self, row: RungRow) -> list[Standing]:
        """Of a rung's candidates, best first."""
        home = self.folder / row.name
        record = read_record(home)
        return ranked(standings(record, read_samples(home, record)), self.loss)

    def _price(self, chosen: Sequence[Standing], rung: Planned) -> float:
        assert self.state.costs is not None
        taken = {arm: row for row in self.state.rungs for arm in row.arms}
        return price_of(
            [(one, taken[one.arm]) for one in chosen], rung, self.state.costs, self.tests
        )

    def _run(self, plan: Plan, name: str) -> Record:
        home = self.folder / name
        begun = (home / RECORD_NAME).exists()
        earlier = [row.name for row in self.state.rungs if row.name != name]
        base = self.folder / earlier[-1] if earlier else None
        options = replace(self.options, base_from=base)
        return run(plan, home, resume=begun, options=options, observer=self.observer)

    def _note(self, **facts: object) -> None:
        """Write down what has come about, and the time it has taken so far."""
        self.state = self.state.model_copy(update=facts | {"spent": self.clock.spent})
        write_search(self.state, self.folder)
