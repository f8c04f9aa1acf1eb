"""What each arm learned, kept and cost, in one row; and two arms against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from narrowtune.analysis.changes import (
    HeldOutChange,
    forgetting,
    held_out_by_stage,
    held_out_final,
    held_out_worst,
    learning,
    learning_by_stage,
    overall,
)
from narrowtune.analysis.estimate import Estimate
from narrowtune.analysis.matrix import (
    arm_names,
    change_over,
    held_out_names,
    stage_names,
    target_names,
)
from narrowtune.analysis.samples import NO_SAMPLES, Samples
from narrowtune.analysis.steps import kept_more_steps, learned_more_steps
from narrowtune.record import Record

Verdict = Literal["ahead", "traded", "not ahead"]


@dataclass(frozen=True)
class ArmCost:
    """What an arm cost over its stages: sums of time and tokens, maxima of the rest."""

    trained_numel: int
    total_numel: int
    seconds: float
    evaluation_seconds: float
    steps: int
    tokens: int
    peak_bytes: int


@dataclass(frozen=True)
class ArmLedger:
    """Whether everything frozen held through all of an arm's stages; `changed` names the rest."""

    held: bool
    frozen: int
    changed: tuple[str, ...]


@dataclass(frozen=True)
class ArmSummary:
    """One arm's row of the report; None stands for what was not measured.

    `stages_done` are the stages whose target and held-out tasks were all scored, as on base.
    """

    arm: str
    finished: bool
    stages_done: tuple[str, ...]
    learning: Estimate | None
    learning_by_stage: dict[str, Estimate]
    forgetting: Estimate | None
    overall: Estimate | None
    held_out: HeldOutChange | None
    held_out_worst: HeldOutChange | None
    held_out_by_stage: dict[str, HeldOutChange]
    cost: ArmCost | None
    ledger: ArmLedger | None


@dataclass(frozen=True)
class Comparison:
    """`arm` less `other`: how much more it learned and kept, on the same samples."""

    arm: str
    other: str
    learned: Estimate | None
    kept: Estimate | None

    @property
    def verdict(self) -> Verdict:
        """`ahead`: clearly better at one of the two and clearly worse at neither.

        `traded`: clearly more kept for clearly less learned. Everything else is `not ahead`.
        """
        words = [part.verdict for part in (self.learned, self.kept) if part is not None]
        if "better" in words and "worse" not in words:
            return "ahead"
        return "traded" if words == ["worse", "better"] else "not ahead"


def summarise(record: Record, samples: Samples = NO_SAMPLES) -> tuple[ArmSummary, ...]:
    """One row per arm, in the experiment's order."""
    return tuple(summarise_arm(record, arm, samples) for arm in arm_names(record))


def summarise_arm(record: Record, arm: str, samples: Samples = NO_SAMPLES) -> ArmSummary:
    """What one arm learned, kept and cost."""
    learned = learning_by_stage(record, arm, samples)
    kept = held_out_by_stage(record, arm, samples)
    stages = stage_names(record)
    done = tuple(stage for stage in stages if _is_done(record, arm, stage, learned, kept))
    return ArmSummary(
        arm=arm,
        finished=done == stages,
        stages_done=done,
        learning=learning(record, arm, samples),
        learning_by_stage=learned,
        forgetting=forgetting(record, arm, samples),
        overall=overall(record, arm, samples),
        held_out=held_out_final(record, arm, samples),
        held_out_worst=held_out_worst(record, arm, samples),
        held_out_by_stage=kept,
        cost=arm_cost(record, arm),
        ledger=arm_ledger(record, arm),
    )


def _is_done(
    record: Record,
    arm: str,
    stage: str,
    learned: Mapping[str, Estimate],
    kept: Mapping[str, HeldOutChange],
) -> bool:
    """Whether a stage was taught and, as far as there are tests, scored."""
    taught = any((row.arm, row.stage) == (arm, stage) for row in record.cost)
    tested = stage in learned if stage in target_names(record) else taught
    return tested and (stage in kept or not held_out_names(record))


def compare_arms(record: Record, arm: str, other: str, samples: Samples = NO_SAMPLES) -> Comparison:
    """How much more `arm` learned and kept than `other`, both after the last stage."""
    learned = change_over(record, samples, learned_more_steps(record, arm, other))
    kept = change_over(record, samples, kept_more_steps(record, arm, other))
    return Comparison(arm, other, learned, kept)


def against_widest(
    record: Record, rows: Sequence[ArmSummary], samples: Samples = NO_SAMPLES
) -> tuple[Comparison, ...]:
    """Every finished arm that trains fewer parameters, against the one that trains most."""
    sizes = {row.arm: row.cost.trained_numel for row in rows if row.finished and row.cost}
    most = max(sizes.values(), default=0)
    widest = next((arm for arm, size in sizes.items() if size == most), "")
    narrow = [arm for arm, size in sizes.items() if size < most]
    return tuple(compare_arms(record, arm, widest, samples) for arm in narrow)


def arm_cost(record: Record, arm: str) -> ArmCost | None:
    """What an arm cost so far; None before its first stage is done."""
    rows = [row for row in record.cost if row.arm == arm]
    if not rows:
        return None
    return ArmCost(
        trained_numel=max(row.trained_numel for row in rows),
        total_numel=max(row.total_numel for row in rows),
        seconds=sum(row.seconds for row in rows),
        evaluation_seconds=sum(row.evaluation_seconds for row in rows),
        steps=sum(row.steps for row in rows),
        tokens=sum(row.tokens for row in rows),
        peak_bytes=max(row.peak_bytes for row in rows),
    )


def arm_ledger(record: Record, arm: str) -> ArmLedger | None:
    """Whether an arm's frozen tensors held through all its stages; None if never checked."""
    rows = [row for row in record.ledger if row.arm == arm]
    if not rows:
        return None
    changed = sorted({name for row in rows for name in row.changed})
    return ArmLedger(
        held=all(row.held for row in rows),
        frozen=max(row.frozen for row in rows),
        changed=tuple(changed),
    )
