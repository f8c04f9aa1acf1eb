"""The record while a run writes it: on disk after every fact, valid at every moment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from narrowtune.record import Cost, Record, Row, Status, write_record


class Journal:
    """Adds rows to a record and writes it at once.

    Args:
        record: The record to begin from.
        folder: Where `record.json` lies.
        writes: False on all processes but the main one.
    """

    def __init__(self, record: Record, folder: Path, writes: bool = True) -> None:
        self.record = record
        self._folder = folder
        self._writes = writes

    def add(self, **rows: list[Any]) -> None:
        """Append rows to the named lists of the record, as in `add(scores=[score])`."""
        lists: dict[str, Any] = {
            name: (*getattr(self.record, name), *new) for name, new in rows.items()
        }
        self._replace(lists)

    def forget_teaching(self, arm: str, stage: str) -> None:
        """Drop losses, and readings with a step, of a stage about to be taught again."""
        keys = {"arm": arm, "stage": stage}
        losses = tuple(row for row in self.record.losses if not _matches(row, keys))
        readings = tuple(
            row for row in self.record.readings if "step" not in row or not _matches(row, keys)
        )
        if (losses, readings) != (self.record.losses, self.record.readings):
            self._replace({"losses": losses, "readings": readings})

    def status(self, status: Status, error: str | None = None) -> None:
        """Say how the run stands."""
        self._replace({"status": status, "error": error})

    def environment(self, facts: dict[str, Any]) -> None:
        """Say what the run computes with."""
        self._replace({"environment": facts})

    def has(self, rows: str, **keys: object) -> bool:
        """Whether one of the record's rows has all these values."""
        return any(_matches(row, keys) for row in getattr(self.record, rows))

    def charge_evaluation(self, arm: str, stage: str, seconds: float) -> None:
        """Add evaluation time to a stage's cost row, where it has one."""
        costs = tuple(_charged(cost, arm, stage, seconds) for cost in self.record.cost)
        self._replace({"cost": costs})

    def _replace(self, values: dict[str, Any]) -> None:
        self.record = self.record.model_copy(update=values)
        if self._writes:
            write_record(self.record, self._folder)


def _matches(row: Row | dict[str, Any], keys: Mapping[str, object]) -> bool:
    values = row if isinstance(row, dict) else vars(row)
    return all(values.get(key) == value for key, value in keys.items())


def _charged(cost: Cost, arm: str, stage: str, seconds: float) -> Cost:
    if (cost.arm, cost.stage) != (arm, stage):
        return cost
    return cost.model_copy(update={"evaluation_seconds": cost.evaluation_seconds + seconds})
