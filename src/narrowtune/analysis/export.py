"""The analysis as plain data, for `report --json` and for scripts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from narrowtune.analysis.changes import HeldOutChange
from narrowtune.analysis.estimate import Estimate
from narrowtune.analysis.headline import headline
from narrowtune.analysis.samples import NO_SAMPLES, Samples
from narrowtune.analysis.summary import ArmSummary, Comparison, against_widest, summarise
from narrowtune.record import Record


def to_dict(record: Record, samples: Samples = NO_SAMPLES) -> dict[str, Any]:
    """Headline, one entry per arm, and each narrower arm against the widest.

    Every value and bound is a fraction, not percent; `verdict` is better, worse or unclear.
    """
    rows = summarise(record, samples)
    return {
        "status": record.status,
        "digest": record.digest,
        "headline": headline(record, samples),
        "arms": [_arm(row) for row in rows],
        "against_widest": [_comparison(one) for one in against_widest(record, rows, samples)],
    }


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


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "arm": comparison.arm,
        "other": comparison.other,
        "learned": _estimate(comparison.learned),
        "kept": _estimate(comparison.kept),
        "verdict": comparison.verdict,
    }


def _estimate(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else asdict(estimate) | {"verdict": estimate.verdict}
