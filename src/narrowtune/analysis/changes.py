"""Learning, forgetting and what was kept, as changes from the untouched base."""

from __future__ import annotations

from dataclasses import dataclass

from narrowtune.analysis.estimate import Estimate, average_score
from narrowtune.analysis.matrix import (
    BASE_POINT,
    agreeing_pairs,
    change_over,
    held_out_names,
    score_table,
    stage_names,
)
from narrowtune.analysis.samples import NO_SAMPLES, Point, Sample, Samples
from narrowtune.analysis.steps import (
    forgetting_steps,
    from_best_steps,
    held_out_steps,
    overall_steps,
    worst_stage,
)
from narrowtune.record import BASE, Record


@dataclass(frozen=True)
class HeldOutChange:
    """Change of the held-out tasks from base after one stage, as mean and as sum over tasks."""

    stage: str
    mean: Estimate
    sum: Estimate


@dataclass(frozen=True)
class Flip:
    """One sample whose answer a stage changed."""

    before: Sample
    after: Sample

    @property
    def change(self) -> float:
        """The score after less the score before."""
        return self.after.score - self.before.score


@dataclass(frozen=True)
class Flips:
    """How one task's answers moved from base: scores lost, gained, and answers merely reworded."""

    task: str
    n: int
    lost: tuple[Flip, ...]
    gained: tuple[Flip, ...]
    reworded: tuple[Flip, ...]


def learning_by_stage(
    record: Record, arm: str, samples: Samples = NO_SAMPLES
) -> dict[str, Estimate]:
    """Change of each stage's own target, right after its stage, from base."""
    found = {
        stage: change_over(record, samples, [(stage, BASE_POINT, (arm, stage))])
        for stage in stage_names(record)
    }
    return {stage: change for stage, change in found.items() if change is not None}


def learning(record: Record, arm: str, samples: Samples = NO_SAMPLES) -> Estimate | None:
    """Target learning: the mean over the stages done of each one's own learning."""
    done = learning_by_stage(record, arm, samples)
    return change_over(record, samples, [(s, BASE_POINT, (arm, s)) for s in done])


def forgetting(record: Record, arm: str, samples: Samples = NO_SAMPLES) -> Estimate | None:
    """Target forgetting: earlier targets at the end, less right after their own stage.

    The mean over all stages but the last; negative means lost. It is the backward transfer of
    Lopez-Paz & Ranzato (2017, arXiv 1706.08840, equation 3). None with a single stage, or for
    an arm that did not reach the last one.
    """
    return change_over(record, samples, forgetting_steps(record, arm))


def from_best(record: Record, arm: str, samples: Samples = NO_SAMPLES) -> Estimate | None:
    """Earlier targets at the end, less their best before: Chaudhry's forgetting, negated.

    The mean over all stages but the last of R[end, i] - max over l < end of R[l, i], the base
    being a row of R (Chaudhry et al. 2018, arXiv 1801.10112, section 3, take R[l, i] of trained
    models only). The best of several noisy scores is high by selection, so this lies below
    `forgetting` even where nothing is lost; its interval is that of the rows chosen.
    """
    return change_over(record, samples, from_best_steps(record, arm))


def overall(record: Record, arm: str, samples: Samples = NO_SAMPLES) -> Estimate | None:
    """Target overall: every target at the end, less base; the mean over stages."""
    return change_over(record, samples, overall_steps(record, arm))


def held_out_change(
    record: Record, arm: str, stage: str, samples: Samples = NO_SAMPLES
) -> HeldOutChange | None:
    """Held-out tasks after a stage, less base; None unless every one of them was scored."""
    mean = change_over(record, samples, held_out_steps(record, arm, stage))
    return None if mean is None else HeldOutChange(stage, mean, mean.times(mean.tasks))


def held_out_by_stage(
    record: Record, arm: str, samples: Samples = NO_SAMPLES
) -> dict[str, HeldOutChange]:
    """The held-out change after every stage that was scored."""
    found = {stage: held_out_change(record, arm, stage, samples) for stage in stage_names(record)}
    return {stage: change for stage, change in found.items() if change is not None}


def held_out_final(record: Record, arm: str, samples: Samples = NO_SAMPLES) -> HeldOutChange | None:
    """The held-out change after the experiment's last stage."""
    return held_out_change(record, arm, stage_names(record)[-1], samples)


def held_out_worst(record: Record, arm: str, samples: Samples = NO_SAMPLES) -> HeldOutChange | None:
    """The held-out change after the stage where it is lowest.

    A minimum over stages is low by selection; its interval is that of the stage alone.
    """
    stage = worst_stage(record, arm)
    return None if stage is None else held_out_change(record, arm, stage, samples)


def held_out_average(record: Record, arm: str, stage: str) -> Estimate | None:
    """The mean held-out score after a stage (`base` for the untouched model)."""
    point: Point = BASE_POINT if stage == BASE else (arm, stage)
    table = score_table(record)
    scores = [table.get((*point, task)) for task in held_out_names(record)]
    found = [score for score in scores if score is not None]
    return average_score(found) if len(found) == len(scores) else None


def flips(record: Record, arm: str, stage: str, task: str, samples: Samples) -> Flips | None:
    """The answers to a task that differ from base's after a stage; None without predictions."""
    pairs = agreeing_pairs(record, samples, task, (arm, stage))
    if pairs is None:
        return None
    score = score_table(record).get((arm, stage, task))
    sign = -1.0 if score is not None and not score.higher_is_better else 1.0
    moved = [Flip(a, b) for a, b in pairs if a.score != b.score or a.prediction != b.prediction]
    return Flips(
        task,
        len(pairs),
        lost=tuple(flip for flip in moved if sign * flip.change < 0),
        gained=tuple(flip for flip in moved if sign * flip.change > 0),
        reworded=tuple(flip for flip in moved if flip.change == 0),
    )
