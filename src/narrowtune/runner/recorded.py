"""Answers that a run has recorded already, where they are the ones a model would give here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from narrowtune.errors import Problems
from narrowtune.evaluation import PreparedTask
from narrowtune.models.loading import choose_dtype
from narrowtune.record import predictions_path, read_record
from narrowtune.runner.environment import HARDWARE, environment


@dataclass(frozen=True)
class Recorded:
    """The predictions of a run's folder, and what they rest on.

    Attributes:
        folder: Of a run, or of one replicate.
        versions: Of the scores by (arm, stage, task).
        weights: Hash of the base's weights.
        moved: What of dtype, hardware and packages was otherwise when they were made than here.
    """

    folder: Path
    versions: Mapping[tuple[str, str, str], str]
    weights: str
    moved: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path, here: Mapping[str, Any]) -> Recorded:
        """A folder's, held against `surroundings` here."""
        record = read_record(folder)
        versions = {(s.arm, s.stage, s.task): s.task_version for s in record.scores}
        then = _comparable(record.environment)
        moved = tuple(key for key, now in _comparable(here).items() if then[key] != now)
        return cls(folder, versions, record.environment.get("weights_sha256", ""), moved)

    def answers(
        self, arm: str, stage: str, name: str, task: PreparedTask
    ) -> list[dict[str, Any]] | None:
        """What a model answered to a task's rows; None where it may answer otherwise here.

        That is on other hardware, by other packages, or judged otherwise.

        Raises:
            InputError: The file is damaged, naming each bad line.
        """
        path = predictions_path(self.folder, arm, stage, name)
        same = self.versions.get((arm, stage, name)) == task.version and not self.moved
        if not same or not path.is_file() or task.metric.corpus is not None:
            return None
        rows = {row["id"]: row for row in _read_rows(path)}
        wanted = [example.id for example in task.examples]
        return [rows[name] for name in wanted] if rows.keys() >= {*wanted} else None


def surroundings(device: str, dtype: str) -> dict[str, Any]:
    """What answers given here rest on, as a run records it.

    Args:
        device: A torch device.
        dtype: As the experiment has it.
    """
    return environment(torch.device(device), 1) | {"dtype": str(choose_dtype(dtype, device))}


def _comparable(facts: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: facts.get(key) for key in ("dtype", *HARDWARE)}
    return found | {"device": str(found["device"]).split(":")[0]}  # "cuda" is "cuda:0"


def _read_rows(path: Path) -> list[dict[str, Any]]:
    rows, problems = [], Problems()
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), start=1):
        try:
            row = json.loads(line)
            rows.append(row | {"id": row["id"], "prediction": str(row["prediction"])})
        except (ValueError, TypeError, KeyError) as error:
            problems.add([f"{path}:{number} is not a prediction ({error!r})"])
    problems.check()
    return rows
