"""What the replicates of an experiment say together: each quantity over orders and seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from narrowtune.analysis.changes import HeldOutChange
from narrowtune.analysis.estimate import Estimate
from narrowtune.analysis.matrix import (
    Step,
    arm_names,
    contrasts_over,
    held_out_names,
    score_table,
    stage_names,
    target_names,
)
from narrowtune.analysis.pooling import pooled_change, spread_of_runs
from narrowtune.analysis.samples import NO_SAMPLES, Samples
from narrowtune.analysis.steps import (
    forgetting_steps,
    from_best_steps,
    held_out_steps,
    kept_more_steps,
    learned_more_steps,
    learning_steps,
    overall_steps,
    worst_stage,
)
from narrowtune.analysis.summary import ArmLedger, Comparison, arm_ledger
from narrowtune.record import Record

Steps = Callable[[Record, str], list[Step]]
Stage = Callable[[Record], str | None]


@dataclass(frozen=True)
class Run:
    """One replicate: its record and its answers; `order` and `seed` tell it from the others."""

    record: Record
    samples: Samples = NO_SAMPLES
    order: int = 1
    seed: int = 0


Runs = Sequence[Run]


@dataclass(frozen=True)
class PooledArm:
    """One arm over the replicates in which it went through all stages.

    Attributes:
        arm: Its name.
        runs: How many replicates that are.
        learning: Each skill right after its own stage, less base; mean over skills.
        forgetting: Earlier skills at the end, less right after their stage (backward transfer).
        from_best: Earlier skills at the end, less their best before.
        overall: All skills at the end, less base.
        held_out: Held-out tasks at the end, less base.
        held_out_worst: The same after each replicate's worst stage.
        learning_by_skill: Learning of each skill.
        after_skill: Held-out change after each skill, wherever in the order it stood.
        after_stage: Held-out change after the first, second, ... stage, whatever it taught.
        seed_spread: Standard deviation of the held-out change between seeds of one order.
        ledger: Whether everything frozen held, in all replicates.
    """

    arm: str
    runs: int
    learning: Estimate | None
    forgetting: Estimate | None
    from_best: Estimate | None
    overall: Estimate | None
    held_out: HeldOutChange | None
    held_out_worst: HeldOutChange | None
    learning_by_skill: dict[str, Estimate]
    after_skill: dict[str, HeldOutChange]
    after_stage: tuple[HeldOutChange, ...]
    seed_spread: float | None
    ledger: ArmLedger | None

    @property
    def finished(self) -> bool:
        """Whether any replicate took it through all stages."""
        return self.runs > 0


def pool(runs: Runs, arm: str) -> PooledArm:
    """All quantities of one arm over its finished replicates."""
    done = finished(runs, arm)
    skills = stage_names(runs[0].record)
    after = {skill: _held_out(done, arm, skill, _skill(skill)) for skill in skills}
    places = range(len(skills))
    stages = [_held_out(done, arm, str(place + 1), _place(place)) for place in places]
    learned = {skill: pooled(done, arm, _only(learning_steps, skill)) for skill in skills}
    return PooledArm(
        arm=arm,
        runs=len(done),
        learning=pooled(done, arm, learning_steps),
        forgetting=pooled(done, arm, forgetting_steps),
        from_best=pooled(done, arm, from_best_steps),
        overall=pooled(done, arm, overall_steps),
        held_out=_held_out(done, arm, "end", _place(-1)),
        held_out_worst=_held_out(done, arm, "worst", lambda record: worst_stage(record, arm)),
        learning_by_skill={skill: one for skill, one in learned.items() if one is not None},
        after_skill={skill: one for skill, one in after.items() if one is not None},
        after_stage=tuple(one for one in stages if one is not None),
        seed_spread=seed_spread(done, arm),
        ledger=_ledger(runs, arm),
    )


def pool_all(runs: Runs) -> tuple[PooledArm, ...]:
    """Every arm, in the experiment's order."""
    return tuple(pool(runs, arm) for arm in arm_names(runs[0].record))


def compare_pooled(runs: Runs, arm: str, other: str) -> Comparison:
    """How much more `arm` learned and kept than `other`, replicate by replicate, at the end."""
    both = finished(finished(runs, arm), other)
    return Comparison(
        arm,
        other,
        pooled(both, arm, lambda record, arm: learned_more_steps(record, arm, other)),
        pooled(both, arm, lambda record, arm: kept_more_steps(record, arm, other)),
    )


def pooled_against_widest(runs: Runs) -> tuple[Comparison, ...]:
    """Every arm that trains fewer parameters, against the one that trains most."""
    sizes = {row.arm: row.trained_numel for run in runs for row in run.record.cost}
    sizes = {arm: size for arm, size in sizes.items() if finished(runs, arm)}
    widest = max(sizes, key=lambda arm: sizes[arm], default="")
    narrow = [arm for arm in arm_names(runs[0].record) if sizes.get(arm, 0) < sizes.get(widest, 0)]
    return tuple(compare_pooled(runs, arm, widest) for arm in narrow if arm in sizes)


def finished(runs: Runs, arm: str) -> list[Run]:
    """The replicates in which an arm was scored on everything after every stage."""
    return [run for run in runs if _is_finished(run.record, arm)]


def at_end_steps(record: Record, arm: str) -> list[Step]:
    """Every held-out task from base to after the last stage."""
    return held_out_steps(record, arm, stage_names(record)[-1])


def seed_spread(runs: Runs, arm: str, steps: Steps = at_end_steps) -> float | None:
    """How far the mean over some steps, the final held-out change, moves between seeds of an order.

    Its standard deviation around the order's mean: the noise of training again. None where no
    order has two seeds.
    """
    ends: list[tuple[int, float]] = []
    for run in runs:
        found = contrasts_over(run.record, run.samples, steps(run.record, arm))
        if found:
            ends.append((run.order, fmean(one.value for one in found)))
    if len({order for order, _ in ends}) == len(ends):
        return None
    spread, _ = spread_of_runs([value for _, value in ends], [order for order, _ in ends])
    return float(spread**0.5)


def _is_finished(record: Record, arm: str) -> bool:
    table, stages = score_table(record), stage_names(record)
    tasks = [*target_names(record), *held_out_names(record)]
    return all((arm, stage, task) in table for stage in stages for task in tasks)


def pooled(runs: Runs, arm: str, steps: Steps) -> Estimate | None:
    """The mean change over an arm's steps and over runs; None where no run has them."""
    return pooled_change(
        [contrasts_over(run.record, run.samples, steps(run.record, arm)) for run in runs],
        [run.order for run in runs],
    )


def _skill(name: str) -> Stage:
    return lambda record: name


def _place(number: int) -> Stage:
    return lambda record: stage_names(record)[number]


def _held_out(runs: Runs, arm: str, name: str, stage: Stage) -> HeldOutChange | None:
    def steps(record: Record, arm: str) -> list[Step]:
        where = stage(record)
        return [] if where is None else held_out_steps(record, arm, where)

    mean = pooled(runs, arm, steps)
    return None if mean is None else HeldOutChange(name, mean, mean.times(mean.tasks))


def _only(steps: Steps, task: str) -> Steps:
    return lambda record, arm: [step for step in steps(record, arm) if step[0] == task]


def _ledger(runs: Runs, arm: str) -> ArmLedger | None:
    found = [one for one in (arm_ledger(run.record, arm) for run in runs) if one is not None]
    if not found:
        return None
    changed = tuple(sorted({name for one in found for name in one.changed}))
    return ArmLedger(all(one.held for one in found), max(one.frozen for one in found), changed)
