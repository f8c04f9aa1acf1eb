"""What `explain` leaves in a run: `explanation.json` and the answers under each correction."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from narrowtune.errors import InputError
from narrowtune.record.schema import Row
from narrowtune.record.store import write_text_atomically

CorrectionName = Literal["offsets", "answer-space", "instruction", "examples"]
CORRECTIONS: tuple[CorrectionName, ...] = get_args(CorrectionName)
PLAIN = "plain"
"""The answers to the same rows without any correction."""

EXPLANATION_NAME = "explanation.json"


class Corrected(Row):
    """How one task is answered: its rows set apart, and what each correction does to it.

    Attributes:
        task: Its name.
        version: What its scores rest on.
        calibration: Rows that estimate and show; none of them is scored.
        scored: Rows that are scored.
        yes_no: Whether all right answers are yes or no.
        told: By correction, what is done, in words.
        unavailable: By correction, why it can't be tried.
    """

    task: str
    version: str
    calibration: int
    scored: int
    yes_no: bool
    told: dict[CorrectionName, str]
    unavailable: dict[CorrectionName, str]


class Explanation(Row):
    """What was asked of a run, and which tasks it could be asked of."""

    digest: str
    calibration: int
    tasks: tuple[Corrected, ...]
    left_out: dict[str, str]


def answers_path(folder: Path, model: tuple[str, str, str], correction: str, task: str) -> Path:
    """Where a model's answers to a task lie; a model is (replicate, arm, stage)."""
    return folder.joinpath(
        "answers", *(part for part in model if part), correction, f"{task}.jsonl"
    )


def write_explanation(explanation: Explanation, folder: Path) -> None:
    """Write `explanation.json` into `folder`."""
    text = explanation.model_dump_json(indent=1) + "\n"
    write_text_atomically(folder / EXPLANATION_NAME, text)


def read_explanation(folder: Path) -> Explanation:
    """What `write_explanation` wrote.

    Raises:
        InputError: There is none, or it is damaged.
    """
    file = folder / EXPLANATION_NAME
    if not file.is_file():
        raise InputError(f"no explanation at {file}: run `narrowtune explain` on the run first")
    try:
        return Explanation.model_validate_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is not a valid explanation: {error}") from error
