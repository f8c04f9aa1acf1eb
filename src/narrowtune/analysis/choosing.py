"""Which of several candidates to use, where only so much may be lost."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from math import inf
from statistics import fmean
from typing import Literal

from scipy.stats import norm

from narrowtune.analysis.estimate import Z95, Estimate
from narrowtune.analysis.matrix import arm_names, stage_names
from narrowtune.analysis.samples import NO_SAMPLES, Samples
from narrowtune.analysis.summary import Comparison, compare_arms, summarise_arm
from narrowtune.record import Record

Room = Literal["within", "unclear", "over"]


@dataclass(frozen=True)
class Standing:
    """What a candidate learned, kept and cost in one rung.

    Attributes:
        arm: Its name.
        learning: Target learning, a fraction.
        kept: Held-out change at the end, a fraction.
        seconds: Of training.
        evaluation_seconds: Of scoring.
        tokens: Put through the model in training.
        peak_bytes: Memory at the peak.
        trained_numel: Numbers that its training moves.
        loss: Of training, at the end of each stage (mean of its last quarter, then over stages).
    """

    arm: str
    learning: Estimate
    kept: Estimate
    seconds: float
    evaluation_seconds: float
    tokens: int
    peak_bytes: int
    trained_numel: int
    loss: float

    def room(self, allowed_loss: float) -> Room:
        """Whether it stays within the loss, clearly (its interval does), or clearly does not."""
        if self.kept.low >= -allowed_loss:
            return "within"
        return "over" if self.kept.high < -allowed_loss else "unclear"

    def excess(self, allowed_loss: float) -> float:
        """What it loses beyond the allowed, a fraction; 0 within it."""
        return max(0.0, -allowed_loss - self.kept.value)


@dataclass(frozen=True)
class Choice:
    """What is recommended, and what stands beside it.

    Attributes:
        best: The one that learned most within the allowed loss, by values; where none is within it,
            the one that loses least.
        within: Whether it stays within the allowed loss, by its value.
        learned: Whether it clearly learned, the best of so many being high by selection.
        of: How many candidates it was chosen from.
        rivals: Others within the loss that do not learn clearly less.
        doubtful: Others beyond the loss by value, not clearly, that learn more.
    """

    best: Standing
    within: bool
    learned: bool
    of: int
    rivals: tuple[Comparison, ...] = ()
    doubtful: tuple[Standing, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether it is recommended."""
        return self.within and self.learned


def standings(record: Record, samples: Samples = NO_SAMPLES) -> list[Standing]:
    """Of every arm that was scored to the end, in the experiment's order."""
    found = []
    for arm in arm_names(record):
        row = summarise_arm(record, arm, samples)
        complete = row.learning is not None and row.held_out is not None and row.cost is not None
        if not (row.finished and complete):
            continue
        assert row.learning is not None and row.held_out is not None and row.cost is not None
        cost = row.cost
        found.append(
            Standing(
                arm,
                row.learning,
                row.held_out.mean,
                cost.seconds,
                cost.evaluation_seconds,
                cost.tokens,
                cost.peak_bytes,
                cost.trained_numel,
                _last_loss(record, arm),
            )
        )
    return found


def _last_loss(record: Record, arm: str) -> float:
    ends = []
    for stage in stage_names(record):
        losses = [row.loss for row in record.losses if (row.arm, row.stage) == (arm, stage)]
        ends.append(fmean(losses[-max(1, len(losses) // 4) :]) if losses else inf)
    return fmean(ends)


def ranked(found: Sequence[Standing], allowed_loss: float) -> list[Standing]:
    """Best first, for going on with: those that may stay within the loss, most learned first.

    What they lose beyond it by value is taken off. Those that clearly lose more come last, by how
    much. After few steps many have learned nothing that a test shows: then the training loss tells.
    """

    def key(one: Standing) -> tuple[int, float, float]:
        excess = one.excess(allowed_loss)
        if one.room(allowed_loss) == "over":
            return 1, excess, one.loss
        return 0, excess - one.learning.value, one.loss

    return sorted(found, key=key)


def choose(
    record: Record, samples: Samples, allowed_loss: float, but: Container[str] = ()
) -> Choice | None:
    """The candidate that learned most of those within the loss, by values.

    Of equals the one that kept more, then the one of less training loss, then the smaller.

    Args:
        record: Of a run, or of several as one.
        samples: Its answers.
        allowed_loss: A fraction.
        but: Arms that are none to choose.

    Returns:
        None where no other arm was scored to the end.
    """
    found = [one for one in standings(record, samples) if one.arm not in but]
    if not found:
        return None
    within = [one for one in found if one.excess(allowed_loss) == 0.0]
    if not within:
        best = min(found, key=lambda one: one.excess(allowed_loss))
        return Choice(best, False, _clearly_learned(best, len(found)), len(found))
    best = max(within, key=_merit)
    others = [one.arm for one in within if one is not best]
    compared = [compare_arms(record, best.arm, other, samples) for other in others]
    rivals = [one for one in compared if one.learned is None or one.learned.verdict != "better"]
    more = [one for one in found if one.learning.value > best.learning.value]
    doubtful = [one for one in more if one.room(allowed_loss) == "unclear"]
    learned = _clearly_learned(best, len(found))
    return Choice(best, True, learned, len(found), tuple(rivals), tuple(doubtful))


def _merit(one: Standing) -> tuple[float, float, float, int]:
    return one.learning.value, one.kept.value, -one.loss, -one.trained_numel


def _clearly_learned(best: Standing, of: int) -> bool:
    """Whether its learning is above 0 at 95 %, were none of so many to have learned (Bonferroni).

    The interval's lower half, made wider by the ratio of the normal quantiles.
    """
    wider = float(norm.ppf(1 - 0.025 / of)) / Z95
    return best.learning.value - wider * (best.learning.value - best.learning.low) > 0
