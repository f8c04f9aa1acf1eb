"""Whole training loops that take turns step by step.

Each loop runs in a thread of its own, of which only one is ever awake: a loop that has finished a
step falls asleep until its next turn. So loops that nobody can call step by step (other people's
trainers) share whatever the machine does meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Semaphore, Thread

OnStep = Callable[[float], None]


class Turns:
    """One loop, asleep between its steps.

    Args:
        loop: Calls what it is given after every step, with the step's loss.
    """

    def __init__(self, loop: Callable[[OnStep], None]) -> None:
        self.losses: list[float] = []
        self._loop = loop
        self._go, self._back = Semaphore(0), Semaphore(0)
        self._error: BaseException | None = None
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def step(self) -> float:
        """Let it go up to the end of its next step (the first time: from its start); the loss."""
        self._wake()
        return self.losses[-1]

    def finish(self) -> None:
        """Let it end, all of its steps taken."""
        self._wake()
        self._thread.join()

    def _wake(self) -> None:
        self._go.release()
        self._back.acquire()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        self._go.acquire()
        try:
            self._loop(self._stepped)
        except BaseException as error:  # whatever it is, it is raised where the turns are given
            self._error = error
        self._back.release()

    def _stepped(self, loss: float) -> None:
        self.losses.append(loss)
        self._back.release()
        self._go.acquire()
