"""Reading the per-sample predictions that lie beside a record."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from narrowtune.analysis import Run, Sample, Samples
from narrowtune.errors import InputError, Problems
from narrowtune.record import Record, predictions_path, read_record


def read_samples(folder: Path, record: Record) -> Samples:
    """Every answer whose file is there; a score without one simply stays unpaired.

    Raises:
        InputError: If files are damaged, naming each bad line.
    """
    rows: dict[tuple[str, str, str], Mapping[str, Sample]] = {}
    problems: list[str] = []
    for score in record.scores:
        path = predictions_path(folder, score.arm, score.stage, score.task)
        if path.is_file():
            rows[score.arm, score.stage, score.task] = read_answers(path, problems)
    if problems:
        raise InputError(problems)
    return Samples(rows)


def read_runs(folder: Path, record: Record) -> list[Run]:
    """The replicates of a repeated experiment that have begun, with their answers.

    Raises:
        InputError: If one's record or files are damaged or gone.
    """
    runs, problems = [], Problems()
    orders = list(dict.fromkeys(row.order for row in record.replicates))
    for row in record.replicates:
        with problems.collect(row.name):
            own = read_record(folder / row.name)
            samples = read_samples(folder / row.name, own)
            runs.append(Run(own, samples, orders.index(row.order) + 1, row.seed))
    problems.check()
    return runs


def read_answers(path: Path, problems: list[str]) -> dict[str, Sample]:
    """One file's answers by sample id; what is wrong with it goes to `problems`."""
    samples: dict[str, Sample] = {}
    for number, line in _lines(path):
        try:
            sample = _sample(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            problems.append(f"{path}:{number} is not a prediction ({error!r})")
            continue
        if sample.id in samples:
            problems.append(f"{path}:{number} repeats the sample id {sample.id!r}")
        samples[sample.id] = sample
    return samples


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    # What is no UTF-8 becomes a mark, and its line no valid prediction or a visibly odd one.
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, line


def _sample(row: Any) -> Sample:
    references = tuple(str(reference) for reference in row.get("references", ()))
    part, guess, score = row.get("contribution"), row.get("guess"), float(row["score"])
    if not math.isfinite(score):
        raise ValueError(f"score {score}")
    return Sample(
        str(row["id"]),
        str(row["prediction"]),
        references,
        score,
        None if part is None else float(part),
        str(row.get("cluster", "")),
        None if guess is None else float(guess),
        str(row.get("said", "")),
    )
