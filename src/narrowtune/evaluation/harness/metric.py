"""Which of a harness task's metrics is its score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from narrowtune.errors import InputError, nearest

USUAL = ("acc_norm", "acc", "exact_match")
"""The metric taken when none is asked for: the first of these, else the task's first."""


@dataclass(frozen=True)
class Headline:
    """The metric that is a task's score.

    Attributes:
        metric: Its name.
        filter: The answer filter it is computed behind; empty where the task has but one.
        averaged: Whether the harness's own value is the mean over the samples, as ours always is.
    """

    metric: str
    filter: str
    averaged: bool = True

    @property
    def name(self) -> str:
        """As recorded: the filter is told where the task has several."""
        return f"{self.metric},{self.filter}" if self.filter else self.metric


def headline(
    asked: str | None, averaged: Mapping[str, bool], filters: Sequence[str], where: str
) -> Headline:
    """The metric and filter that are meant.

    Args:
        asked: `METRIC`, `METRIC,FILTER` or None for the usual one.
        averaged: The task's metrics, and whether each is a plain mean over samples.
        filters: The task's answer filters, in order; empty where it has but one.
        where: The task, for messages.

    Raises:
        InputError: There is no such metric or filter, or it has no value per sample: two models
            are compared on the same samples.
    """
    metric, comma, chosen = (asked or "").partition(",")
    means = [name for name, mean in averaged.items() if mean]
    if not means:
        raise InputError(
            f"{where}: its metrics ({_listed(averaged)}) are not means over samples, so two models "
            "can't be compared on the same samples; choose another task"
        )
    if comma and chosen not in filters:
        raise InputError(f"{where}: no filter {chosen!r}; {nearest(chosen, filters or ['(none)'])}")
    if not metric:
        metric = next((name for name in USUAL if name in means), means[0])
    if metric not in averaged:
        raise InputError(f"{where} has no metric {metric!r}; {nearest(metric, means)}")
    if metric not in means:
        raise InputError(
            f"{where}: its metric {metric!r} is no mean over samples, so two models can't be "
            f"compared on the same samples by it; choose from {_listed(means)}"
        )
    return Headline(metric, chosen or (filters[0] if filters else ""))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
