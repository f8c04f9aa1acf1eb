"""What candidates cost: measured once by a pilot, then by what each took in the rung before."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import fmean

from narrowtune.analysis.choosing import Standing, standings
from narrowtune.errors import RunFailed
from narrowtune.record import Costs, Planned, Record, RungRow
from narrowtune.runner import Plan
from narrowtune.search.rungs import Prices
from narrowtune.search.shortened import samples_at, shortened

PILOT_STEPS = 4

TELLING_STEPS = 16
"""A first rung has as many, or is as long as the whole: after fewer, chance decides."""


def pilot_plan(plan: Plan) -> Plan:
    """The candidate that moves most numbers, for a few steps, scored on the fewest samples."""
    widest = max(plan.arms, key=lambda arm: arm.trained_numel)
    longest = max(plan.settings(widest, stage).steps for stage in plan.stages)
    return shortened(plan, [widest.name], min(1.0, PILOT_STEPS / longest), 0.0)


def measured(plan: Plan, run: Callable[[], Record]) -> Costs:
    """What the pilot's run took.

    Args:
        plan: The pilot's.
        run: Carries it out.

    Raises:
        RunFailed: It did not come to its end.
    """
    began = time.monotonic()
    record = run()
    wall = time.monotonic() - began
    found = standings(record)
    if not found:
        why = record.diverged[0].reason if record.diverged else "it was not scored"
        raise RunFailed(f"the pilot, {plan.arms[0].name}, failed: {why}")
    one = found[0]
    base = one.evaluation_seconds / len(plan.stages)
    rest = wall - one.seconds - one.evaluation_seconds - base
    return Costs(
        fixed=max(0.0, rest) / 2,  # the base was loaded twice
        per_token=one.seconds / one.tokens,
        per_test=base / tests_of(plan),
    )


def prices(plan: Plan, costs: Costs) -> Prices:
    """Of a candidate, were it as dear as the pilot's and taught and scored in full."""
    whole = tests_of(plan)
    tokens = (sum(s["tokens"] for s in arm["stages"]) for arm in plan.to_dict()["arms"])
    return Prices(
        fixed=costs.fixed,
        teaching=costs.per_token * max(tokens),
        scoring=costs.per_test * whole * len(plan.stages),
        base=costs.per_test * whole,
        scored=lambda share: samples_at(plan, share) / whole,
    )


def price_of(
    chosen: Sequence[tuple[Standing, RungRow]], rung: Planned, costs: Costs, plan: Plan
) -> float:
    """Seconds that candidates will take in a rung, by what each took before.

    Args:
        chosen: The candidates as they stood, and the rung in which they did.
        rung: The one to come.
        costs: Measured so far.
        plan: The whole one.
    """
    samples = samples_at(plan, rung.tests)
    own = (
        rung.steps / before.steps * one.seconds
        + samples / samples_at(plan, before.tests) * one.evaluation_seconds
        for one, before in chosen
    )
    return (1 + len(chosen)) * costs.fixed + samples * costs.per_test + sum(own)


def learned_from(record: Record, plan: Plan, wall: float, costs: Costs) -> Costs:
    """The costs, corrected by a rung that was carried out in one go.

    Args:
        record: Of its run.
        plan: Of its run.
        wall: Seconds that it took.
        costs: Measured before.
    """
    found = standings(record)
    if not found:
        return costs
    passes = len(plan.stages) * tests_of(plan)
    per_test = fmean(one.evaluation_seconds for one in found) / passes
    taken = sum(one.seconds + one.evaluation_seconds for one in found)
    rest = wall - taken - per_test * tests_of(plan)
    return costs.model_copy(
        update={"fixed": max(0.0, rest) / (1 + len(found)), "per_test": per_test}
    )


def telling_share(plan: Plan) -> float:
    """The share of the steps below which a training tells little, by its longest stage."""
    arm = plan.arms[0]
    longest = max(plan.settings(arm, stage).steps for stage in plan.stages)
    return min(1.0, TELLING_STEPS / longest)


def tests_of(plan: Plan) -> int:
    """Samples of all tasks."""
    return sum(task.prepared.size for task in plan.tasks)
