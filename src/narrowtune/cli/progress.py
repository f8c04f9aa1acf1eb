"""A run's progress in the terminal, on stderr."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from narrowtune.engine import is_main_process
from narrowtune.experiment import Replicate
from narrowtune.record import LedgerRow, Score
from narrowtune.runner import Observer
from narrowtune.training import StepResult


class TerminalProgress(Observer):
    """A bar with loss, samples per second and time left; plain lines where there is no terminal."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, quiet=not is_main_process())
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("", total=1, facts="")
        self._title, self._total = "", 1

    def __enter__(self) -> TerminalProgress:
        """Start drawing."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop drawing."""
        self._bar.stop()

    def replicate(self, replicate: Replicate, place: int, total: int) -> None:
        """Name the order and seed that come next."""
        order = " > ".join(replicate.order)
        self.note(f"replicate {place} of {total}: {order}, seed {replicate.seed}")

    def phase(self, title: str, total: int) -> None:
        """Begin a new bar."""
        self._title, self._total = title, total
        self._bar.reset(self._task, total=total, description=title, facts="")
        if not self.console.is_terminal:
            self.note(title)

    def step(self, result: StepResult, samples_per_second: float) -> None:
        """Move the bar; without a terminal, a line for every tenth of the stage."""
        facts = f"loss {result.loss:.3f} · {samples_per_second:.1f} samples/s"
        self._bar.update(self._task, completed=result.step, facts=facts)
        tenth = max(1, self._total // 10)
        last = result.step == self._total
        if not self.console.is_terminal and (result.step % tenth == 0 or last):
            self.note(f"  step {result.step}/{self._total} · {facts}")
        elif last:
            self.note(f"{self._title}: {facts}")

    def score(self, score: Score) -> None:
        """Move the bar by a task."""
        self.advance(f"{score.task} {score.value:.1%}")

    def advance(self, facts: str) -> None:
        """Move the bar by one."""
        self._bar.update(self._task, advance=1, facts=facts)

    def ledger(self, row: LedgerRow) -> None:
        """Say so when freezing did not hold."""
        if not row.held:
            self.note(
                f"LEDGER BROKEN: {len(row.changed)} frozen tensors of {row.arm} changed during "
                f"{row.stage}, first {row.changed[0]}"
            )

    def note(self, text: str) -> None:
        """A line above the bar."""
        self.console.print(text, markup=False, highlight=False)
