"""Which way of teaching to use: successive halving over candidates, within a budget."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from narrowtune.analysis.wording import counted
from narrowtune.errors import InputError, RunFailed
from narrowtune.models.loading import check_device
from narrowtune.record import (
    RECORD_NAME,
    Record,
    RungRow,
    SearchRecord,
    read_record,
    write_search,
)
from narrowtune.runner import Observer, Options, Plan, run
from narrowtune.search.budget import Budget, Clock, Watch
from narrowtune.search.candidates import in_turn
from narrowtune.search.folder import open_search
from narrowtune.search.ladder import Ladder
from narrowtune.search.pricing import learned_from, measured, pilot_plan, prices, telling_share
from narrowtune.search.rungs import LEAST, designed, least_seconds
from narrowtune.search.shortened import shortened
from narrowtune.training import Interrupted

PILOT = "pilot"


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
    began = time.monotonic() if budget.began is None else budget.began
    chosen = options or Options()
    state = open_search(Path(out), alone, budget, resume, str(check_device(chosen.device)))
    clock = Clock(budget.seconds, state.spent, began)
    search = _Search(alone, Path(out), state, clock)
    search.watched_by(observer or Observer(), chosen)
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
        self.whole, self.folder, self.state, self.clock = plan, folder, state, clock

    @property
    def plan(self) -> Plan:
        """Of the candidates that are still in question."""
        fitting = set(self.state.candidates)
        return replace(
            self.whole, arms=tuple(arm for arm in self.whole.arms if arm.name in fitting)
        )

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
        except BaseException:
            self._note(status="interrupted")
            raise
        self._note(status="complete")
        return self.state

    def _pilot(self) -> None:
        """Measure what candidates cost; one that can't be taught is no candidate any more."""
        home = self.folder / PILOT
        while self.state.costs is None:
            if not self.state.candidates:
                told = [f"{name}: {why}" for name, why in self.state.left_out.items()]
                raise InputError(told)
            shutil.rmtree(home, ignore_errors=True)  # cut short it would measure too little
            small = pilot_plan(self.plan)
            name = small.arms[0].name
            self.observer.note(f"pilot: {name}, to measure what a step costs")
            try:
                self._note(costs=measured(small, partial(self._run, small, PILOT)))
            except RunFailed as error:
                rest = tuple(one for one in self.state.candidates if one != name)
                self._note(candidates=rest, left_out=self.state.left_out | {name: str(error)})
            except Interrupted as stopped:
                if self.clock.is_over():
                    raise InputError(
                        "the time was used up before one candidate was taught a few steps: go on "
                        "with more --minutes and --resume"
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
        self._note(planned=rungs)

    def _climb(self) -> None:
        going = all(self._teach(row) for row in self.state.rungs)
        while going and (after := self._ladder.next(self.clock.left)) is not None:
            planned, arms = after
            name = f"rung-{len(self.state.rungs) + 1}"
            row = RungRow(name=name, arms=arms, steps=planned.steps, tests=planned.tests)
            if planned not in self.state.planned:  # a longer one than was designed
                self._note(planned=(*self.state.planned, planned))
            self._note(rungs=(*self.state.rungs, row))
            going = self._teach(row)

    @property
    def _ladder(self) -> Ladder:
        state = self.state
        assert state.costs is not None
        return Ladder(
            self.plan,
            self.folder,
            state.candidates,
            state.allowed_loss,
            state.costs,
            state.planned,
            state.rungs,
        )

    def _teach(self, row: RungRow) -> bool:
        """Teach a rung's candidates; False where the time ran out before all were taught."""
        home, began = self.folder / row.name, time.monotonic()
        done = (home / RECORD_NAME).exists() and read_record(home).status == "complete"
        if done:
            return True
        if self.clock.is_over():
            return False
        self.observer.note(
            f"{row.name}: {counted(len(row.arms), 'candidate')}, {row.steps:.0%} of the steps, "
            f"{row.tests:.0%} of the test samples"
        )
        small, fresh = shortened(self.plan, row.arms, row.steps, row.tests), not home.exists()
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

    def _run(self, plan: Plan, name: str) -> Record:
        home = self.folder / name
        begun = (home / RECORD_NAME).exists()
        earlier = [PILOT, *(row.name for row in self.state.rungs if row.name != name)]
        known = [self.folder / one for one in earlier if name != PILOT]
        base = next((one for one in reversed(known) if (one / RECORD_NAME).exists()), None)
        options = replace(self.options, base_from=base)
        return run(plan, home, resume=begun, options=options, observer=self.observer)

    def _note(self, **facts: object) -> None:
        """Write down what has come about, and the time it has taken so far."""
        self.state = self.state.model_copy(update=facts | {"spent": self.clock.spent})
        write_search(self.state, self.folder)
