"""How much of a held-out drop comes back while later skills are taught."""

from __future__ import annotations

from dataclasses import dataclass

from narrowtune.analysis.estimate import Contrast, Estimate
from narrowtune.analysis.matrix import contrasts_over, stage_names
from narrowtune.analysis.pooling import pooled_change
from narrowtune.analysis.replicates import Run, Runs, finished
from narrowtune.analysis.shares import share_interval
from narrowtune.analysis.steps import held_out_steps


@dataclass(frozen=True)
class Recovery:
    """A clear held-out drop during one stage, and what the stages after it brought back.

    Attributes:
        stage: The skill during which the held-out mean fell.
        drop: The change during that stage.
        regained: The change from after that stage to the end.
        share: `regained` over the size of `drop`: 1 is all of it, 0 none, negative lost more.
        low: Lower end of the share's 95 % interval, by bootstrap over samples and runs.
        high: Upper end.
    """

    stage: str
    drop: Estimate
    regained: Estimate
    share: float
    low: float
    high: float


def recoveries(runs: Runs, arm: str) -> tuple[Recovery, ...]:
    """One entry per skill whose stage made the held-out mean fall clearly, last stages left out.

    Drops whose interval holds 0 have none: a share of noise means nothing. Each drop is measured
    from the stage before, not from the highest point, so it is not picked for being large; but a
    stage that came out low by chance is followed by a higher one on average, and the interval does
    not know that.
    """
    done = finished(runs, arm)
    stages = stage_names(runs[0].record)
    found = [_recovery([r for r in done if _later(r, stage)], arm, stage) for stage in stages]
    return tuple(one for one in found if one is not None)


def _later(run: Run, stage: str) -> bool:
    return stage_names(run.record)[-1] != stage


def _recovery(runs: Runs, arm: str, stage: str) -> Recovery | None:
    both = [(run, _fall(run, arm, stage), _rise(run, arm, stage)) for run in runs]
    whole = [one for one in both if one[1] and one[2]]  # without base, a first stage has no fall
    runs, falls = [one[0] for one in whole], [one[1] for one in whole]
    rises = [one[2] for one in whole]
    orders = [run.order for run in runs]
    drop, regained = pooled_change(falls, orders), pooled_change(rises, orders)
    if drop is None or regained is None or drop.verdict != "worse":
        return None
    low, high = share_interval(rises, falls, orders)  # of a fall: the other way round
    return Recovery(stage, drop, regained, regained.value / -drop.value, -high, -low)


def _fall(run: Run, arm: str, stage: str) -> list[Contrast]:
    names = stage_names(run.record)
    place = names.index(stage)
    before = names[place - 1] if place else None
    return contrasts_over(
        run.record, run.samples, held_out_steps(run.record, arm, stage, since=before)
    )


def _rise(run: Run, arm: str, stage: str) -> list[Contrast]:
    end = stage_names(run.record)[-1]
    return contrasts_over(
        run.record, run.samples, held_out_steps(run.record, arm, end, since=stage)
    )
