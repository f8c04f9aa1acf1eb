"""Learning against keeping over sweeps: what each family of arms keeps at the same learning.

A family's cells differ in what its sweep varies, a learning rate say. Its curve runs through the
cells that no other of its cells beats on both axes. docs/frontier.md has formulas and limits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import combinations
from statistics import fmean
from typing import Literal

import numpy as np

from narrowtune.analysis.curves import mean_height, non_dominated, starts_at, value_at
from narrowtune.analysis.families import (
    Family,
    Frontier,
    FrontierPoint,
    Gap,
    Matched,
    Price,
    Quantity,
    Ranged,
)
from narrowtune.analysis.matrix import (
    BASE_POINT,
    arm_names,
    held_out_names,
    score_table,
    target_names,
)
from narrowtune.analysis.redrawing import Redrawn, redrawn
from narrowtune.analysis.replicates import Run, Runs, at_end_steps, finished, pooled, seed_spread
from narrowtune.analysis.resampling import DRAWS, Array
from narrowtune.analysis.steps import learning_steps
from narrowtune.analysis.summary import arm_cost

LEVELS = (0.8, 0.9, 0.95)
"""Shares of the best learning at which families are compared unless told otherwise."""

OF_LEAST_DRIFT = (0.25, 0.5, 1.0)
"""Drift levels, as shares of the least drift of any cell that learned the lowest level."""

Places = Sequence[int]
Measured = tuple[Quantity, float | None, Callable[[Places], Array]]


def frontier(runs: Runs, levels: Sequence[float] = LEVELS, draws: int = DRAWS) -> Frontier | None:
    """Every family's curve, and what it keeps, learns and costs at matched levels.

    Args:
        runs: One run, or all replicates; of these the complete ones, where there are any.
        levels: Shares of the best learning of any arm, above 0 and up to 1.
        draws: How many resamples.

    Returns:
        None where nothing taught is tested, nothing is held out, the base was not scored, or no
        arm was scored to the end.
    """
    used = [run for run in runs if run.record.status == "complete"] or list(runs)
    if not used or not all(_has_base(run) for run in used):
        return None
    left_out = _left_out(used)
    arms = [arm for arm in arm_names(used[0].record) if arm not in left_out]
    if not arms:
        return None
    curves = _Curves(redrawn(used, arms, draws), tuple(sorted(levels)), _base_score(used))
    members = _members(used[0], arms)
    points = {
        arm: _point(used, arm, bool(on), None if drift is None else float(drift))
        for places in members.values()
        for arm, on, drift in curves.cells(places)
    }
    families = tuple(
        curves.family(name, places, [points[arms[place]] for place in places])
        for name, places in members.items()
    )
    best = max(points.values(), key=lambda point: point.learning.value)
    return Frontier(
        families,
        best,
        curves.levels,
        tuple(curves.gaps(members)),
        left_out,
        len(used),
        curves.drawn.draws,
    )


@dataclass(frozen=True)
class _Curves:
    """The curves of all families in every resample; row 0 is what was measured."""

    drawn: Redrawn
    levels: tuple[float, ...]
    base_score: float | None

    @cached_property
    def best(self) -> Array:
        """The most that any arm learned, NaN where none learned: `[1 + draws]`."""
        most = self.drawn.learned.max(axis=1)
        return np.where(most > 0, most, np.nan)

    @cached_property
    def drift_levels(self) -> tuple[float, ...]:
        """Nats per token."""
        if self.drawn.drift is None or np.isnan(self.best[0]):
            return ()
        learned = self.drawn.learned[0] >= self.levels[0] * self.best[0] - 1e-12
        least = float(self.drawn.drift[0][learned].min())
        return tuple(share * least for share in OF_LEAST_DRIFT) if least > 0 else ()

    def cells(self, places: Places) -> Iterator[tuple[str, bool, float | None]]:
        """Each cell's arm, whether it is on its family's curve, and its drift."""
        on = non_dominated(self.drawn.learned[:1, places], self.drawn.kept[:1, places])[0]
        drift = self.drawn.drift
        for place, is_on in zip(places, on, strict=True):
            yield self.drawn.arms[place], is_on, None if drift is None else drift[0, place]

    def measured(self) -> Iterator[Measured]:
        """All that families are compared by, as functions of a family's cells."""
        for level in self.levels:
            yield "kept", level, partial(self._kept, level)
        for nats in self.drift_levels:
            yield "learned", nats, partial(self._learned, nats)
        if self.base_score is not None and not np.isnan(self.best[0]):
            yield "area", None, self._area

    def family(self, name: str, places: Places, points: Sequence[FrontierPoint]) -> Family:
        """What one family reaches at each level, and at what price."""
        found = [(what, at, _ranged(of(places))) for what, at, of in self.measured()]
        return Family(
            name,
            tuple(points),
            tuple(
                Matched(at, value, self._kept_is_bound(places, at))
                for what, at, value in found
                if what == "kept" and at is not None
            ),
            tuple(
                Matched(at, value, self._learned_is_bound(places, at))
                for what, at, value in found
                if what == "learned" and at is not None
            ),
            next((value for what, _, value in found if what == "area"), None),
            tuple(self._prices(places, points)),
        )

    def gaps(self, members: Mapping[str, Places]) -> Iterator[Gap]:
        """Every pair of families, wherever both have a value."""
        for what, level, of in self.measured():
            values = {name: of(places) for name, places in members.items()}
            for one, other in combinations(values, 2):
                apart = values[one] - values[other]
                apart_by = _ranged(apart, missing_is_low=False)
                if apart_by is not None:
                    yield Gap(what, one, other, level, apart_by)

    def _kept(self, level: float, places: Places) -> Array:
        learned, kept = self.drawn.learned[:, places], self.drawn.kept[:, places]
        return value_at(learned, kept, level * self.best)

    def _learned(self, nats: float, places: Places) -> Array:
        assert self.drawn.drift is not None
        drift, learned = self.drawn.drift[:, places], self.drawn.learned[:, places]
        return value_at(-drift, learned, np.full(len(drift), -nats))

    def _area(self, places: Places) -> Array:
        assert self.base_score is not None
        shares = np.clip(1 + self.drawn.kept[:, places] / self.base_score, 0.0, 1.0)
        return mean_height(self.drawn.learned[:, places], shares, self.best)

    def _kept_is_bound(self, places: Places, level: float) -> bool:
        begins = starts_at(self.drawn.learned[:1, places], self.drawn.kept[:1, places])[0]
        return bool(begins > level * self.best[0] + 1e-12)

    def _learned_is_bound(self, places: Places, nats: float) -> bool:
        assert self.drawn.drift is not None
        begins = starts_at(-self.drawn.drift[:1, places], self.drawn.learned[:1, places])[0]
        return bool(begins > -nats + 1e-12)

    def _prices(self, places: Places, points: Sequence[FrontierPoint]) -> Iterator[Price]:
        for level in self.levels:
            reached = self.drawn.learned >= (level * self.best - 1e-12)[:, None]
            able = [
                (point.seconds, point.tokens, place, point.arm)
                for place, point in zip(places, points, strict=True)
                if reached[0, place] and point.seconds is not None and point.tokens is not None
            ]
            if able:
                seconds, tokens, place, arm = min(able)
                often = float(reached[1:, place].mean()) if self.drawn.draws else None
                yield Price(level, arm, seconds, tokens, often)


def _ranged(values: Array, missing_is_low: bool = True) -> Ranged | None:
    """A value and its interval; None where it has none.

    Resamples without a value count as the lowest for the lower end; as the highest for the upper
    one, too, unless `missing_is_low`. So an end is open where more than one in forty have none.
    """
    value, moved = float(values[0]), values[1:]
    if np.isnan(value):
        return None
    gone = np.isnan(moved)
    lows = np.where(gone, -np.inf, moved)
    highs = moved[~gone] if missing_is_low else np.where(gone, np.inf, moved)
    return Ranged(
        value, _end(lows, 0.025, "lower", value, min), _end(highs, 0.975, "higher", value, max)
    )


def _end(
    moved: Array,
    share: float,
    side: Literal["lower", "higher"],
    value: float,
    outer: Callable[[float, float], float],
) -> float | None:
    if not len(moved):
        return None
    found = float(np.quantile(moved, share, method=side))
    # A maximum of noisy numbers rises when they are drawn again; its value stays in its interval.
    return outer(found, value) if np.isfinite(found) else None


def _has_base(run: Run) -> bool:
    """Whether there is something to learn and to keep, and the base was scored on it."""
    sides, table = (target_names(run.record), held_out_names(run.record)), score_table(run.record)
    return all(sides) and all((*BASE_POINT, task) in table for side in sides for task in side)


def _left_out(runs: Runs) -> dict[str, str]:
    """Arms that are no points: they must have gone to the end in every run."""
    reasons = {}
    for arm in arm_names(runs[0].record):
        rows = [row for run in runs for row in run.record.diverged if row.arm == arm]
        diverged = len(rows)
        done = len(finished(runs, arm))
        if diverged:
            of = f" in {diverged} of {len(runs)} replicates" if len(runs) > 1 else ""
            word = "diverged" if rows[0].reason.startswith("loss") else "given up"
            reasons[arm] = f"{word}{of}"
        elif done < len(runs):
            of = f" in {len(runs) - done} of {len(runs)} replicates" if len(runs) > 1 else ""
            reasons[arm] = f"not scored to the end{of}"
    return reasons


def _members(run: Run, arms: Sequence[str]) -> dict[str, list[int]]:
    """The places of each family's cells among the arms."""
    families = {arm.name: arm.family for arm in run.record.experiment.arms}
    members: dict[str, list[int]] = {}
    for place, arm in enumerate(arms):
        members.setdefault(families[arm], []).append(place)
    return members


def _point(runs: Runs, arm: str, on_frontier: bool, drift: float | None) -> FrontierPoint:
    learning, kept = (pooled(runs, arm, steps) for steps in (learning_steps, at_end_steps))
    assert learning is not None and kept is not None
    costs = [cost for run in runs if (cost := arm_cost(run.record, arm)) is not None]
    return FrontierPoint(
        arm=arm,
        learning=learning,
        kept=kept,
        on_frontier=on_frontier,
        drift=drift,
        seconds=fmean(cost.seconds for cost in costs) if costs else None,
        tokens=fmean(cost.tokens for cost in costs) if costs else None,
        learning_spread=seed_spread(runs, arm, learning_steps),
        kept_spread=seed_spread(runs, arm),
    )


def _base_score(runs: Runs) -> float | None:
    """The base's mean held-out score; None where a share of it would mean nothing."""
    tables = [score_table(run.record) for run in runs]
    tasks = held_out_names(runs[0].record)
    scores = [table[*BASE_POINT, task] for table in tables for task in tasks]
    mean = fmean(score.value for score in scores)
    return mean if mean > 0 and all(score.higher_is_better for score in scores) else None
