"""What lmms-eval made of a model's answers, as a score's rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from numbers import Real
from typing import Any

from narrowtune.errors import InputError
from narrowtune.evaluation.harness.asked import Asked
from narrowtune.evaluation.harness.metric import Headline, headline

UNSEEN = ("exact_match",)  # of a choice: asks whether greedy decoding would say it


@dataclass(frozen=True)
class Judged:
    """One task's run.

    Attributes:
        samples: As logged, one per document (and filter).
        values: The task's own aggregates, keyed `METRIC,FILTER`.
    """

    samples: Sequence[Mapping[str, Any]]
    values: Mapping[str, Any]

    def scores(self, task: Any, chosen: Headline) -> list[float | None]:
        """Each sample's own value of a metric; None where it has none."""
        name = chosen.metric
        return [_value(task, name, one.get(name)) for one in self.behind(task, chosen)]

    def behind(self, task: Any, chosen: Headline) -> Sequence[Mapping[str, Any]]:
        """The samples that came through a filter; they are logged filter by filter."""
        names = filters(task)
        each = len(self.samples) // len(names)
        start = names.index(chosen.filter) * each if chosen.filter else 0
        return self.samples[start : start + each]


def filters(task: Any) -> list[str]:
    """The task's answer filters, in the order in which it logs them."""
    return list(dict.fromkeys(one["name"] for one in task.config.filter_list or ())) or ["none"]


def headline_of(asked: Asked, where: str, task: Any, rehearsed: Sequence[Judged]) -> Headline:
    """The metric that is the score, among those that rehearsals show.

    Unasked it is one whose value is the mean over all samples. Where a user asks for another, say
    one that averages categories, the score is still the mean over the samples that have it.

    Raises:
        InputError: See `headline`.
    """
    several = [name for name in filters(task) if name != "none"]
    first = several[0] if several else ""
    choosing = task.OUTPUT_TYPE == "multiple_choice"
    seen = {
        name: _in_all([_seen(task, one, Headline(name, first)) for one in rehearsed])
        for name in task.aggregation()
        if not (choosing and name in UNSEEN)
    }
    usable = {name: one.fractions for name, one in seen.items()}
    if asked.metric is None:
        usable = _without_asking(where, seen)
        if choosing and usable.get("acc"):
            usable = {"acc": True}  # its acc_norm divides a loss, which favours long choices
    chosen = headline(asked.metric, usable, several, where)
    return replace(chosen, averaged=seen[chosen.metric].averaged)


@dataclass(frozen=True)
class Seen:
    """What a rehearsal shows of a metric: of its samples' values, and of the task's own.

    Attributes:
        fractions: There are some, and all lie between 0 and 1.
        averaged: The task's own value is their mean.
        whole: Every sample has one.
    """

    fractions: bool
    averaged: bool
    whole: bool


def _in_all(seen: Sequence[Seen]) -> Seen:
    """What holds in every rehearsal: in one of them, categories may average as samples do."""
    return Seen(
        all(one.fractions for one in seen),
        all(one.averaged for one in seen),
        all(one.whole for one in seen),
    )


def _seen(task: Any, rehearsed: Judged, metric: Headline) -> Seen:
    scores = rehearsed.scores(task, metric)
    known = [score for score in scores if score is not None]
    fractions = bool(known) and all(0 <= score <= 1 for score in known)
    own = rehearsed.values.get(f"{metric.metric},{metric.filter or filters(task)[0]}")
    averaged = isinstance(own, Real) and bool(known)
    if averaged:
        averaged = math.isclose(float(own), sum(known) / len(known), abs_tol=1e-6)  # type: ignore[arg-type]
    return Seen(fractions, averaged, len(known) == len(scores))


def _without_asking(where: str, seen: Mapping[str, Seen]) -> dict[str, bool]:
    """The metrics that may be taken unasked; refused where only others have values per sample."""
    best = {name: one.fractions and one.averaged and one.whole for name, one in seen.items()}
    others = [name for name, one in seen.items() if one.fractions]
    if others and not any(best.values()):
        raise InputError(
            f"{where}: none of its metrics is the mean over all samples; set metric to one of "
            f"{', '.join(others)}, and the score is the mean over the samples that have it"
        )
    return best


def rows_of(
    task: Any, found: Judged, chosen: Headline, prefix: str, clusters: Mapping[str, str]
) -> list[dict[str, Any]]:
    """One row per sample that has the metric, in the data's order.

    Args:
        task: The lmms-eval task.
        found: Its run.
        chosen: The metric and filter that are the score.
        prefix: Tells the ids of several tasks apart; empty for one.
        clusters: What each document, by number, shares with others: its images' digest, or "".
    """
    rows = []
    scores = found.scores(task, chosen)
    for sample, score in zip(found.behind(task, chosen), scores, strict=True):
        if score is None:
            continue
        number = str(sample["doc_id"])
        row = {"id": f"{prefix}/{number}" if prefix else number}
        if clusters.get(number):
            row["cluster"] = clusters[number]
        rows.append(row | _answer(task, sample, chosen.metric) | {"score": score})
    return rows


def _value(task: Any, metric: str, given: Any) -> float | None:
    """A sample's value: a number, its `score`, or what the task would make of it alone."""
    if isinstance(given, Mapping) and task.config.score_key in given:
        given = given[task.config.score_key]
    elif given is not None and not isinstance(given, Real):
        rule = task.aggregation()[metric]
        if "args" in signature(rule).parameters:
            return None  # it writes a submission file
        given = rule([given])
    return float(given) if isinstance(given, Real) else None


def _answer(task: Any, sample: Mapping[str, Any], metric: str) -> dict[str, Any]:
    target = sample["target"]
    if task.OUTPUT_TYPE == "generate_until":
        said = sample["filtered_resps"][0]
        wanted = target if isinstance(target, list | tuple) else [target]
        return {"prediction": str(said), "references": [str(one) for one in wanted]}
    choices = [str(choice) for choice in task.doc_to_choice(sample["doc"])]
    losses = [float(loss) for loss, _ in sample["filtered_resps"]]
    lengths = [len(choice) if metric == "acc_norm" else 1 for choice in choices]
    taken = min(range(len(choices)), key=lambda place: losses[place] / lengths[place])
    pairs = zip(choices, losses, strict=True)
    return {
        "prediction": choices[taken],
        "references": [choices[target] if isinstance(target, int) else str(target)],
        "choices": [{"text": text, "loss_per_token": loss} for text, loss in pairs],
    }
