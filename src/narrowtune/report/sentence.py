"""The sentence that sums a run up, as the reports print it."""

from __future__ import annotations

from pathlib import Path

from narrowtune import analysis
from narrowtune.record import Record
from narrowtune.report.predictions import read_runs, read_samples


def headline(record: Record, folder: str | Path | None = None) -> str:
    """What was learned and kept, in two or three sentences.

    Args:
        record: The run's record.
        folder: The run's folder. With it, intervals are paired on the same samples, as in the
            reports; without it, they rest on standard errors alone and are wider.
    """
    if record.replicates and folder is not None:
        return analysis.pooled_headline(record, read_runs(Path(folder), record))
    samples = analysis.NO_SAMPLES if folder is None else read_samples(Path(folder), record)
    return analysis.headline(record, samples)
