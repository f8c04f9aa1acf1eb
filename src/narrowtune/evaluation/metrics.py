"""How an answer is judged: five metrics, each a name, a version and a pure function.

A metric reads the prediction and every reference with the same reader and asks whether any two
agree; what cannot be read is wrong. A change to a reader that can change a score raises the
metric's revision, and with it the version that stands in every record. No torch here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from narrowtune.data.example import Example
from narrowtune.errors import InputError, nearest
from narrowtune.evaluation.reading.clock import dial_distance, read_clock
from narrowtune.evaluation.reading.number import read_number
from narrowtune.evaluation.reading.option import read_option
from narrowtune.evaluation.reading.words import normalised
from narrowtune.evaluation.reading.yes_no import read_yes_no

Reader = Callable[[str, Sequence[str]], Any]
CLOCK_TOLERANCE_MINUTES = 1


@dataclass(frozen=True)
class Metric:
    """A way to judge one answer, 1.0 right and 0.0 wrong.

    Attributes:
        name: As written in an experiment.
        revision: Raised whenever some answer would be judged differently.
        asks_for: What an answer must hold to be readable, for error messages.
        read: The answer's value given its text and the task's choices; None if unreadable.
        agree: Whether two values count as the same answer.
        higher_is_better: True for every metric so far.
    """

    name: str
    revision: int
    asks_for: str
    read: Reader
    agree: Callable[[Any, Any], bool] = operator.eq
    higher_is_better: bool = True

    @property
    def version(self) -> str:
        """Name and revision, as recorded with every score."""
        return f"{self.name}/{self.revision}"

    def score(
        self, prediction: str, references: Sequence[str], choices: Sequence[str] = ()
    ) -> float:
        """1.0 if `prediction` agrees with any of the accepted answers, else 0.0."""
        said = self.read(prediction, choices)
        if said is None:
            return 0.0
        accepted = (self.read(reference, choices) for reference in references)
        return float(any(value is not None and self.agree(said, value) for value in accepted))


def _clocks_agree(one: int, other: int) -> bool:
    return dial_distance(one, other) <= CLOCK_TOLERANCE_MINUTES


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("exact", 1, "words", lambda text, choices: normalised(text) or None),
        Metric("option", 1, "a choice's letter", read_option),
        Metric("number", 1, "a number", lambda text, choices: read_number(text)),
        Metric(
            "clock", 1, "a time as HH:MM", lambda text, choices: read_clock(text), _clocks_agree
        ),
        Metric("yes_no", 1, "yes or no", lambda text, choices: read_yes_no(text)),
    )
}


def metric_named(name: str) -> Metric:
    """The metric of that name.

    Raises:
        InputError: If there is none; names the nearest.
    """
    if name not in METRICS:
        raise InputError(f"no metric is called {name!r}: {nearest(name, METRICS)}")
    return METRICS[name]


def misfits(metric: str, examples: Iterable[Example]) -> list[str]:
    """One sentence per example that has a reference the metric cannot read.

    A task whose own answers are unreadable would score 0 for every model, in silence.
    """
    judge = metric_named(metric)
    return [
        f"{example.source}: metric {metric!r} finds no {judge.asks_for.removeprefix('a ')} "
        f"in the reference {reference!r}"
        for example in examples
        for reference in example.references
        if judge.read(reference, example.choices) is None
    ]
