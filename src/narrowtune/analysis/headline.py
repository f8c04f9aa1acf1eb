"""The sentence that sums a run up, with honest numbers, whoever wins."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from narrowtune.analysis.divergence import diverged_arms, diverged_sentences
from narrowtune.analysis.estimate import Estimate
from narrowtune.analysis.matrix import held_out_names, stage_names
from narrowtune.analysis.replicates import PooledArm, Runs, pool_all, pooled_against_widest
from narrowtune.analysis.samples import NO_SAMPLES, Samples
from narrowtune.analysis.summary import (
    ArmSummary,
    Comparison,
    Verdict,
    against_widest,
    compare_arms,
    summarise,
)
from narrowtune.analysis.taught import taught_sentences
from narrowtune.analysis.wording import bounds, counted, listed, signed, with_bounds
from narrowtune.record import Record

MOST_TOLD = 3
"""With more narrow arms than this their numbers are left to the table: a headline stays short."""


def headline(record: Record, samples: Samples = NO_SAMPLES) -> str:
    """Who learned most, who kept most, and whether any narrower arm came out ahead.

    Only arms that were scored after every stage are compared. A change whose interval holds 0 is
    never called a loss or a gain.
    """
    rows = summarise(record, samples)
    finished = [row for row in rows if row.finished and row.learning is not None]
    sentences = _body(record, samples, finished)
    sentences += taught_sentences(record)
    sentences += _unfinished(record, rows) + diverged_sentences(record)
    broken = [row.arm for row in rows if row.ledger is not None and not row.ledger.held]
    if broken:
        sentences.append(f"The ledger is broken: frozen tensors changed in {listed(broken)}.")
    return " ".join(sentences)


def pooled_headline(record: Record, runs: Runs) -> str:
    """The same over all replicates: who learned and kept how much, and how that compares."""
    rows = [row for row in pool_all(runs) if row.learning is not None] if runs else []
    if not rows:
        return "No arm went through all stages of any replicate, so there is nothing to compare."
    skills = counted(len(stage_names(record)), "skill")
    most = max(row.runs for row in rows)
    ranked = sorted(rows, key=lambda row: row.held_out.mean.value if row.held_out else 0.0)
    told = [f"Over {counted(most, 'replicate')} of {skills}, {_pooled_row(ranked[-1], most)}"]
    if len(ranked) > 1:
        told.append(f"{_pooled_row(ranked[0], most)}")
    sentences = ["; ".join(told) + "."]
    compared = pooled_against_widest(runs)
    if compared:
        verdict = _verdict(compared)
        sentences.append(f"Against {compared[0].other}, which trains most, {verdict}.")
    if record.status != "complete":
        complete = sum(row.status == "complete" for row in record.replicates)
        done = f"{complete} of {len(record.experiment.replicates)} replicates"
        sentences.append(f"The run is not complete (status: {record.status}, {done}).")
    sentences += taught_sentences(record) + diverged_sentences(record)
    broken = [row.arm for row in rows if row.ledger is not None and not row.ledger.held]
    if broken:
        sentences.append(f"The ledger is broken: frozen tensors changed in {listed(broken)}.")
    return " ".join(sentences)


def _pooled_row(row: PooledArm, most: int) -> str:
    assert row.learning is not None
    name = row.arm if row.runs == most else f"{row.arm} (over {row.runs} of them)"
    verb = "learned" if row.learning.verdict == "better" else "shows no clear learning:"
    text = f"{name} {verb} {with_bounds(row.learning)}"
    if row.held_out is None:
        return text
    over = counted(row.held_out.mean.tasks, "held-out task")
    return f"{text} and {_kept(row.held_out.mean, over)}"


def _body(record: Record, samples: Samples, finished: list[ArmSummary]) -> list[str]:
    if not finished:
        return ["No arm was scored on base and after every stage, so there is nothing to compare."]
    if len(finished) == 1:
        return [_single(record, finished[0])]
    return [
        _learned_most(record, samples, finished),
        _kept_most(record, samples, finished),
        *_against_widest(record, samples, finished),
    ]


def _single(record: Record, row: ArmSummary) -> str:
    assert row.learning is not None
    skills = counted(len(stage_names(record)), "skill")
    learned = f"{row.arm} learned {with_bounds(row.learning)} over {skills}"
    if row.learning.verdict != "better":
        learned = f"{row.arm} shows no clear learning ({with_bounds(row.learning)} over {skills})"
    if row.held_out is None:
        return f"{learned}; no held-out task was scored, so what it kept is unknown."
    over = counted(row.held_out.mean.tasks, "held-out task")
    return f"{learned} and {_kept(row.held_out.mean, over)}."


def _kept(mean: Estimate, over: str) -> str:
    if mean.verdict == "unclear":
        return f"shows no clear change on {over} ({with_bounds(mean)})"
    verb = "lost" if mean.verdict == "worse" else "gained"
    return f"{verb} {abs(100 * mean.value):.1f} points {bounds(mean)} on {over}"


def _learned_most(record: Record, samples: Samples, rows: list[ArmSummary]) -> str:
    best, second = _top_two(rows, lambda row: row.learning)
    assert best.learning is not None
    skills = counted(len(stage_names(record)), "skill")
    text = f"{best.arm} learned most, {with_bounds(best.learning)} over {skills}"
    if best.learning.verdict != "better":
        text = f"No arm clearly learned; {best.arm} came highest, {with_bounds(best.learning)}"
    gap = compare_arms(record, best.arm, second.arm, samples).learned
    return text + _not_clearly(gap, second.arm) + "."


def _kept_most(record: Record, samples: Samples, rows: list[ArmSummary]) -> str:
    if not held_out_names(record):
        return "No held-out task was scored, so what was kept is unknown."
    best, second = _top_two(rows, lambda row: row.held_out.mean if row.held_out else None)
    assert best.held_out is not None
    over = f"the mean of {counted(len(held_out_names(record)), 'held-out task')}"
    joint = "but still" if best.held_out.mean.verdict == "worse" else "and"
    gap = compare_arms(record, best.arm, second.arm, samples).kept
    told = f"{best.arm} kept most {joint} {_kept(best.held_out.mean, over)}"
    return f"{told}{_not_clearly(gap, second.arm)}."


def _top_two(
    rows: list[ArmSummary], of: Callable[[ArmSummary], Estimate | None]
) -> tuple[ArmSummary, ArmSummary]:
    def value(row: ArmSummary) -> float:
        estimate = of(row)
        return estimate.value if estimate is not None else float("-inf")

    best, second, *_ = sorted(rows, key=value, reverse=True)
    return best, second


def _not_clearly(gap: Estimate | None, other: str) -> str:
    if gap is None or gap.clear:
        return ""
    return f", though not clearly more than {other} (by {signed(gap.value)} {bounds(gap)})"


def _against_widest(record: Record, samples: Samples, rows: list[ArmSummary]) -> list[str]:
    """How the arms that train fewer parameters did against the one that trains most."""
    compared = against_widest(record, rows, samples)
    if not compared:
        return []
    opening = f"Against {compared[0].other}, which trains most"
    if len(compared) > MOST_TOLD:
        return [f"{opening}, {_verdict(compared)}."]
    told = "; ".join(_told(comparison) for comparison in compared)
    return [f"{opening}: {told}. So {_verdict(compared)}."]


def _verdict(compared: Sequence[Comparison]) -> str:
    """Every narrow arm named once, under what it amounts to."""
    told: dict[Verdict, str] = {
        "ahead": "came out ahead",
        "traded": "traded learning for keeping",
        "not ahead": "did not come out ahead",
    }
    arms = {word: [one.arm for one in compared if one.verdict == word] for word in told}
    return ", ".join(f"{listed(arms[word])} {what}" for word, what in told.items() if arms[word])


def _told(comparison: Comparison) -> str:
    parts = [part for part in (comparison.kept, comparison.learned) if part is not None]
    if not any(part.clear for part in parts):
        return f"{comparison.arm} differs clearly in neither learning nor keeping"
    kept = f"kept {_more(comparison.kept)} and " if comparison.kept is not None else ""
    learned = f"learned {_more(comparison.learned)}" if comparison.learned is not None else ""
    return f"{comparison.arm} {kept}{learned}"


def _more(gap: Estimate) -> str:
    word = "more" if gap.value >= 0 else "less"
    noise = "" if gap.clear else " (within the noise)"
    return f"{abs(100 * gap.value):.1f} {word}{noise}"


def _unfinished(record: Record, rows: tuple[ArmSummary, ...]) -> list[str]:
    pruned = diverged_arms(record)
    left_out = [
        f"{row.arm} ({len(row.stages_done)} of {counted(len(stage_names(record)), 'stage')})"
        for row in rows
        if not row.finished and row.arm not in pruned
    ]
    sentences = []
    if record.status != "complete":
        sentences.append(f"The run is not complete (status: {record.status}).")
    if left_out:
        sentences.append(f"Left out, not scored to the end: {listed(left_out)}.")
    return sentences
