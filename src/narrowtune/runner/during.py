"""Probes read while a stage is taught: some steps' readings, kept beside the stage's checkpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from narrowtune.probes.looking import Interval, is_due
from narrowtune.probes.watching import Watch
from narrowtune.record import write_text_atomically

LIGHT = 0.03
"""The share of training that looks may take before a plan tells of it."""


@dataclass(frozen=True)
class Looks:
    """Probes and how often they are read during training."""

    every: Interval
    watch: Watch

    def share(self, batch_size: int) -> float:
        """About which part of the training's time reading the fixed texts takes.

        A step costs three forward passes of a batch, a look one of all texts. Of captions nothing
        is known beforehand, and with `log` looks become rarer and rarer.
        """
        if self.every == "log":
            return 0.0
        texts = sum(len(one.encoded) for one in self.watch.probing.references)
        return texts / (3 * batch_size * self.every)

    def to_dict(self) -> dict[str, Any]:
        """What will be read, in numbers."""
        return {"every": self.every, **self.watch.probing.to_dict()}


@dataclass(frozen=True)
class Look:
    """What the probes said after one step, and the seconds it took."""

    step: int
    seconds: float
    readings: list[dict[str, Any]]


class StageLooks:
    """The looks at one stage.

    Each is written into a file at once. So whatever checkpoint a stage is resumed from, the looks
    before it are there; those after it are dropped, since their steps are taken again.

    Args:
        looks: What is read, and how often.
        path: The file, which lies there already where the stage was interrupted.
        steps: Of the whole stage.
        writes: False on all processes but the main one.
    """

    def __init__(self, looks: Sequence[Looks], path: Path, steps: int, writes: bool) -> None:
        self._looks, self._path, self._steps, self._writes = looks, path, steps, writes
        self._done = list(_earlier(path))
        self._begun = False

    @property
    def readings(self) -> list[dict[str, Any]]:
        """All rows so far: readings with their `step`."""
        return [row for look in self._done for row in look.readings]

    @property
    def seconds(self) -> float:
        """What the looks took, those before an interruption included."""
        return sum(look.seconds for look in self._done)

    def after(self, step: int, model: nn.Module, unit: tuple[str, str]) -> None:
        """Look if it is time.

        Args:
            step: The step just done.
            model: As it stands after it; left as it is.
            unit: Arm and stage.
        """
        if not self._begun:
            self._begun = True
            self._go_on_from(step)
        last = step == self._steps
        due = [looks for looks in self._looks if is_due(step, looks.every, last)]
        if due:
            self._add(step, model, {"arm": unit[0], "stage": unit[1], "step": step}, due)

    def _add(
        self, step: int, model: nn.Module, where: dict[str, Any], due: Sequence[Looks]
    ) -> None:
        started = time.monotonic()
        found = [one for looks in due for one in looks.watch.look(model)]
        rows = [where | reading.to_dict() for reading in found]
        self._done.append(Look(step, time.monotonic() - started, rows))
        if self._writes:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_lines(self._done[-1:]))

    def _go_on_from(self, step: int) -> None:
        """Keep what lies before the first step of this session."""
        self._done = [look for look in self._done if look.step < step]
        if self._writes and self._looks:
            write_text_atomically(self._path, _lines(self._done))

    def forget_file(self) -> None:
        """Remove the file: the record holds its rows."""
        if self._writes:
            self._path.unlink(missing_ok=True)


def _lines(looks: Iterable[Look]) -> str:
    return "".join(json.dumps(asdict(look)) + "\n" for look in looks)


def _earlier(path: Path) -> Iterator[Look]:
    """The looks in a file; a last line that a crash cut short is none."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield Look(**json.loads(line))
        except ValueError:
            return
