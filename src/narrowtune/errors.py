"""What can go wrong because of the input, as one sentence (or one list) a user can act on.

Bugs keep their traceback; only the kinds below are caught by the command line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


class NarrowTuneError(Exception):
    """Base of every error that the user, not the programmer, can mend."""


class InputError(NarrowTuneError):
    """The input is wrong; `problems` lists everything that is, not just the first.

    Args:
        problems: One sentence, or several, each saying what was asked, what exists, what to do.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (
            (problems,) if isinstance(problems, str) else tuple(problems)
        )
        super().__init__("\n".join(self.problems))


class Problems:
    """Collects input errors, so that a user hears of all of them in one message."""

    def __init__(self) -> None:
        self._found: list[str] = []

    @contextmanager
    def collect(self, where: str = "") -> Iterator[None]:
        """Keep an `InputError` raised inside for later, each problem led by `where`."""
        try:
            yield
        except InputError as error:
            lead = f"{where}: " if where else ""
            self._found += [lead + problem for problem in error.problems]

    def add(self, problems: Iterable[str]) -> None:
        """Keep problems that were told rather than raised."""
        self._found += problems

    @property
    def found(self) -> tuple[str, ...]:
        """What was collected so far, each problem once, in order."""
        return tuple(dict.fromkeys(self._found))

    def check(self) -> None:
        """Raise what was collected.

        Raises:
            InputError: Holding every problem once, in order, if there was any.
        """
        if self._found:
            raise InputError(self.found)


class RunFailed(NarrowTuneError):
    """The run itself failed (the loss became NaN, say); its record is valid and says why."""


class NarrowTuneWarning(UserWarning):
    """Something a careful user wants to know, though the work goes on."""


def nearest(word: str, known: Iterable[str], limit: int = 3) -> str:
    """A phrase naming the known words closest to `word`, for the end of an error message."""
    options = sorted(set(known))
    close = difflib.get_close_matches(word, options, n=limit, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(option) for option in close) + "?"
    shown = ", ".join(options[:12]) + (", ..." if len(options) > 12 else "")
    return f"known: {shown}"
