"""Ctrl-C that loses nothing: the first asks the run to stop, the second insists."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Becomes true when the user, or the machine's scheduler, wants the run to end."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        """Whether stopping was asked for."""
        return self.asked


@contextmanager
def stop_on_signal(say: Callable[[str], None]) -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request while the context lasts.

    The user is told by `say`. A second SIGINT raises KeyboardInterrupt at once. Outside the main
    thread, where Python allows no handlers, the request stays false.
    """
    request = StopRequest()

    def ask(number: int, _frame: FrameType | None) -> None:
        if request.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not request.asked:
            say("stopping after this step or task; Ctrl-C again stops at once")
        request.asked = True

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        yield request
        return
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
