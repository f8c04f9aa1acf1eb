"""lm-eval's logged samples as rows like ours: id, prediction, references, score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from narrowtune.evaluation.harness.metric import Headline

Sample = Mapping[str, Any]


def rows_of(
    task: Any,
    samples: Sequence[Sample],
    chosen: Headline,
    prefix: str,
    clusters: Mapping[str, str],
) -> list[dict[str, Any]]:
    """One row per sample that has the metric, in the data's order.

    Args:
        task: The lm-eval task, which knows its choices.
        samples: As lm-eval logs them, once per filter.
        chosen: The metric and filter that are the score.
        prefix: Tells the ids of several tasks apart; empty for one.
        clusters: What each document, by number, shares with others: its passage's digest, or "".
    """
    rows = []
    for sample in samples:
        behind = not chosen.filter or sample["filter"] == chosen.filter
        if not behind or chosen.metric not in sample:
            continue
        number = str(sample["doc_id"])
        row: dict[str, Any] = {"id": f"{prefix}/{number}" if prefix else number}
        if clusters.get(number):
            row["cluster"] = clusters[number]
        row |= _answer(task, sample, chosen.metric)
        row |= {"score": float(sample[chosen.metric]), "metrics": _metrics(sample)}
        rows.append(row)
    return rows


def _metrics(sample: Sample) -> dict[str, float]:
    """All of the sample's metrics that are single numbers."""
    values = {name: sample[name] for name in sample["metrics"] if name in sample}
    return {name: float(value) for name, value in values.items() if isinstance(value, Real)}


def _answer(task: Any, sample: Sample, metric: str) -> dict[str, Any]:
    if task.OUTPUT_TYPE == "multiple_choice":
        return _choice(task, sample, metric)
    if task.OUTPUT_TYPE == "loglikelihood":
        return _likelihood(sample)
    said = sample["filtered_resps"][0]
    return {"prediction": _text(said), "references": _references(task, sample)}


def _choice(task: Any, sample: Sample, metric: str) -> dict[str, Any]:
    """The choice that was taken: the likeliest, per character where the metric is acc_norm."""
    choices = [str(choice) for choice in task.doc_to_choice(sample["doc"])]
    totals = [float(total) for total, _ in sample["filtered_resps"]][: len(choices)]
    lengths = [len(choice) if metric == "acc_norm" else 1 for choice in choices]
    taken = max(range(len(choices)), key=lambda place: totals[place] / lengths[place])
    rows = zip(choices, totals, strict=True)
    return {
        "prediction": choices[taken],
        "references": _references(task, sample),
        "choices": [{"text": text, "log_likelihood": total} for text, total in rows],
    }


def _likelihood(sample: Sample) -> dict[str, Any]:
    """Whether the model would have gone on as the text does; it said no text of its own."""
    total, greedy = sample["filtered_resps"][0]
    wanted = str(sample["arguments"][0][1])
    return {
        "prediction": wanted if greedy else "",
        "references": [wanted],
        "log_likelihood": float(total),
    }


def _references(task: Any, sample: Sample) -> list[str]:
    """The accepted answers as texts; lm-eval gives places among the choices, texts, or lists."""
    target = task.doc_to_text(sample["doc"]) if task.multiple_input else sample["target"]
    targets = list(target) if isinstance(target, list | tuple) else [target]
    if task.config.doc_to_choice is None:
        return [_text(one) for one in targets]
    choices = task.doc_to_choice(sample["doc"])
    places = [one for one in targets if isinstance(one, int) and 0 <= one < len(choices)]
    texts = [_text(one) for one in targets if not isinstance(one, int)]
    return [str(choices[place]) for place in places] + texts


def _text(value: Any) -> str:
    """A filter may leave a list of answers; its first is the one judged."""
    first = value[0] if isinstance(value, list | tuple) and value else value
    return str(first)
