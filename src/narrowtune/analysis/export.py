"""The analysis as plain data, for `report --json` and for scripts."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from narrowtune.analysis.changes import HeldOutChange, from_best
from narrowtune.analysis.drift_export import drift_to_dict
from narrowtune.analysis.estimate import Estimate
from narrowtune.analysis.forms import form_shifts
from narrowtune.analysis.headline import headline, pooled_headline
from narrowtune.analysis.matrix import stage_names
from narrowtune.analysis.recovery import recoveries
from narrowtune.analysis.replicates import (
    PooledArm,
    Run,
    Runs,
    pool_all,
    pooled_against_widest,
)
from narrowtune.analysis.samples import NO_SAMPLES, Samples
from narrowtune.analysis.significance import paired_tests
from narrowtune.analysis.summary import ArmSummary, Comparison, against_widest, summarise
from narrowtune.record import NOISE_FLOOR, Record


def to_dict(record: Record, samples: Samples = NO_SAMPLES) -> dict[str, Any]:
    """Headline, one entry per arm, and each narrower arm against the widest.

    Every value and bound is a fraction, not percent; `verdict` is better, worse or unclear.
    """
    rows = summarise(record, samples)
    return {
        "status": record.status,
        "digest": record.digest,
        "headline": headline(record, samples),
        "arms": [
            _arm(row)
            | {
                "from_best": _estimate(from_best(record, row.arm, samples)),
                "recovery": _recovery([Run(record, samples)], row.arm),
                "answer_forms": _forms([Run(record, samples)], row.arm),
                "tests": _tests(record, samples, row.arm),
            }
            for row in rows
        ],
        "diverged": [row.model_dump(mode="json") for row in record.diverged],
        "noise_floor": [row for row in record.readings if row.get("probe") == NOISE_FLOOR],
        "against_widest": [
            comparison_to_dict(one) for one in against_widest(record, rows, samples)
        ],
        "drift": drift_to_dict([Run(record, samples)]),
    }


def pooled_to_dict(record: Record, runs: Runs) -> dict[str, Any]:
    """Headline, every arm over all replicates, comparisons, and each replicate on its own."""
    return together_to_dict(record, runs) | {
        "replicates": [
            {"order": list(stage_names(run.record)), "seed": run.seed}
            | to_dict(run.record, run.samples)
            for run in runs
        ],
    }


def together_to_dict(record: Record, runs: Runs) -> dict[str, Any]:
    """What the replicates say together, without each one's own analysis."""
    return {
        "status": record.status,
        "digest": record.digest,
        "headline": pooled_headline(record, runs),
        "arms": [_pooled(row, runs) for row in (pool_all(runs) if runs else ())],
        "diverged": [row.model_dump(mode="json") for row in record.diverged],
        "against_widest": [
            comparison_to_dict(one) for one in (pooled_against_widest(runs) if runs else ())
        ],
        "drift": drift_to_dict(runs),
    }


def _pooled(row: PooledArm, runs: Runs) -> dict[str, Any]:
    return {
        "arm": row.arm,
        "runs": row.runs,
        "learning": _estimate(row.learning),
        "learning_by_skill": {s: _estimate(one) for s, one in row.learning_by_skill.items()},
        "forgetting": _estimate(row.forgetting),
        "from_best": _estimate(row.from_best),
        "overall": _estimate(row.overall),
        "held_out": _held_out(row.held_out),
        "held_out_worst": _held_out(row.held_out_worst),
        "held_out_after_skill": {s: _held_out(one) for s, one in row.after_skill.items()},
        "held_out_after_stage": [_held_out(one) for one in row.after_stage],
        "recovery": _recovery(runs, row.arm),
        "answer_forms": _forms(runs, row.arm),
        "seed_spread": row.seed_spread,
        "ledger": asdict(row.ledger) if row.ledger is not None else None,
    }


def _recovery(runs: Runs, arm: str) -> list[dict[str, Any]]:
    return [
        {
            "stage": one.stage,
            "drop": _estimate(one.drop),
            "regained": _estimate(one.regained),
            "share": one.share,
            "low": finite(one.low),
            "high": finite(one.high),
        }
        for one in recoveries(runs, arm)
    ]


def _forms(runs: Runs, arm: str) -> list[dict[str, Any]]:
    return [asdict(one) for one in form_shifts(runs, arm)]


def finite(value: float) -> float | None:
    """The value, or None for an unbounded one, which JSON cannot hold."""
    return value if math.isfinite(value) else None


def _tests(record: Record, samples: Samples, arm: str) -> list[dict[str, Any]]:
    """Every task at the arm's end, tested against base; none for an arm that did not get there."""
    point = (arm, stage_names(record)[-1])
    return [
        asdict(one) | {"change": _estimate(one.change)}
        for one in paired_tests(record, samples, point)
    ]


def _arm(row: ArmSummary) -> dict[str, Any]:
    return {
        "arm": row.arm,
        "finished": row.finished,
        "stages_done": list(row.stages_done),
        "learning": _estimate(row.learning),
        "learning_by_stage": {s: _estimate(one) for s, one in row.learning_by_stage.items()},
        "forgetting": _estimate(row.forgetting),
        "overall": _estimate(row.overall),
        "held_out": _held_out(row.held_out),
        "held_out_worst": _held_out(row.held_out_worst),
        "held_out_by_stage": {s: _held_out(one) for s, one in row.held_out_by_stage.items()},
        "cost": asdict(row.cost) if row.cost is not None else None,
        "ledger": asdict(row.ledger) if row.ledger is not None else None,
    }


def _held_out(change: HeldOutChange | None) -> dict[str, Any] | None:
    if change is None:
        return None
    return {
        "stage": change.stage,
        "mean": _estimate(change.mean),
        "sum": _estimate(change.sum),
    }


def comparison_to_dict(comparison: Comparison) -> dict[str, Any]:
    """One arm against another: both gaps with their intervals, and the verdict."""
    return {
        "arm": comparison.arm,
        "other": comparison.other,
        "learned": _estimate(comparison.learned),
        "kept": _estimate(comparison.kept),
        "verdict": comparison.verdict,
    }


def _estimate(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else asdict(estimate) | {"verdict": estimate.verdict}
