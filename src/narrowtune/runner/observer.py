"""Who watches a run: the command line draws a progress bar, a library user may do otherwise."""

from __future__ import annotations

from narrowtune.experiment import Replicate
from narrowtune.record import LedgerRow, Score
from narrowtune.training import StepResult


class Observer:
    """Told of what happens, in order; every method does nothing until overridden."""

    def replicate(self, replicate: Replicate, place: int, total: int) -> None:
        """The next order and seed of a repeated experiment begins."""

    def phase(self, title: str, total: int) -> None:
        """A new stretch of work begins, with `total` units (steps or tasks) ahead."""

    def step(self, result: StepResult, samples_per_second: float) -> None:
        """One optimiser step is done."""

    def score(self, score: Score) -> None:
        """One task has been scored."""

    def advance(self, facts: str) -> None:
        """One unit of the stretch is done; `facts` says what came of it."""

    def ledger(self, row: LedgerRow) -> None:
        """The frozen tensors of a stage have been checked."""

    def note(self, text: str) -> None:
        """Something worth a line."""
