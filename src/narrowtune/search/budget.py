"""What a search may spend, and the watch that keeps it from spending more."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from narrowtune.engine import peak_bytes
from narrowtune.errors import InputError
from narrowtune.experiment import Replicate
from narrowtune.record import LedgerRow, Score
from narrowtune.runner import Observer
from narrowtune.training import Abandoned, StepResult

KEPT_BACK = 0.03
"""Share of the time that nothing is planned for: writing a checkpoint, ending a step."""


@dataclass(frozen=True)
class Budget:
    """What a search may spend.

    Attributes:
        seconds: Of wall time, reading and planning included.
        allowed_loss: Of the mean held-out score, a fraction: 0.02 is two points.
        memory: Bytes at the peak of teaching a candidate: the device's on a GPU, otherwise the
            process's; None for no limit.
        began: `time.monotonic()` when it began to be spent; unless given, when a search begins.

    Raises:
        InputError: One of them is no budget.
    """

    seconds: float
    allowed_loss: float = 0.02
    memory: int | None = None
    began: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no budget."""
        problems = []
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            problems.append(f"the time must be a number of seconds above 0, not {self.seconds}")
        if not 0 <= self.allowed_loss <= 1:
            problems.append(
                f"the allowed loss must be a fraction from 0 to 1, not {self.allowed_loss}: two "
                "points are 0.02"
            )
        if self.memory is not None and self.memory <= 0:
            problems.append(f"the memory must be a number of bytes above 0, not {self.memory}")
        if problems:
            raise InputError(problems)


@dataclass
class Clock:
    """Time spent, in this session and earlier ones.

    Attributes:
        seconds: What may be spent.
        earlier: What other sessions spent.
        began: `time.monotonic()` when this one began.
    """

    seconds: float
    earlier: float
    began: float

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return self.earlier + time.monotonic() - self.began

    @property
    def left(self) -> float:
        """Seconds that can still be planned for."""
        return max(0.0, (1 - KEPT_BACK) * self.seconds - self.spent)

    def is_over(self) -> bool:
        """Whether nothing more may be begun."""
        return self.left == 0.0


class TooMuchMemory(Abandoned):
    """A candidate took more memory than the search may."""


@dataclass
class Watch(Observer):
    """Tells another observer everything, keeps the clock's account, and looks after memory.

    Attributes:
        told: The other one.
        tick: Called every few seconds; writes down what has been spent.
        memory: The most a candidate may take, in bytes.
        device: Where it is taken; known once a run has begun.
    """

    told: Observer
    tick: Callable[[], None]
    memory: int | None
    device: str
    every: float = 5.0
    _last: float = field(default_factory=time.monotonic)

    def replicate(self, replicate: Replicate, place: int, total: int) -> None:
        """Pass it on."""
        self.told.replicate(replicate, place, total)

    def phase(self, title: str, total: int) -> None:
        """Pass it on."""
        self._account()
        self.told.phase(title, total)

    def step(self, result: StepResult, samples_per_second: float) -> None:
        """Pass it on, and give up a candidate that takes too much memory.

        Raises:
            TooMuchMemory: It does.
        """
        self._account()
        self.told.step(result, samples_per_second)
        if self.memory is not None:
            import torch

            taken = peak_bytes(torch.device(self.device))
            if taken > self.memory:
                raise TooMuchMemory(
                    f"it took {taken / 2**30:.2f} GiB, more than the {self.memory / 2**30:.2f} GiB "
                    "allowed",
                    result.step,
                )

    def score(self, score: Score) -> None:
        """Pass it on."""
        self._account()
        self.told.score(score)

    def advance(self, facts: str) -> None:
        """Pass it on."""
        self.told.advance(facts)

    def ledger(self, row: LedgerRow) -> None:
        """Pass it on."""
        self.told.ledger(row)

    def note(self, text: str) -> None:
        """Pass it on."""
        self.told.note(text)

    def _account(self) -> None:
        if time.monotonic() - self._last > self.every:
            self.tick()
            self._last = time.monotonic()
