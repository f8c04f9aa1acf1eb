"""A harness's task made ready: built, checked and measured before any weight is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version as package_version
from typing import TYPE_CHECKING, Any

from narrowtune.data.example import Example
from narrowtune.errors import InputError
from narrowtune.evaluation.harness.asked import HARNESSES, Asked
from narrowtune.evaluation.harness.metric import Headline
from narrowtune.evaluation.tasks import TaskResult, standard_error

if TYPE_CHECKING:
    from torch import nn

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class HarnessTask:
    """A task that a public harness runs; scored like a prepared file of ours.

    Attributes:
        asked: What it was built from.
        metric_name: The metric that is its score.
        size: Samples.
        version: Metric, the task's version in the harness and the harness's own, and what of the
            way of asking differs from the task's default.
        higher_is_better: The metric's direction.
        sha256: Of every request to the model with its expected answer, images included: prompts,
            choices and generation settings. Other requests make another run.
        answer: One row per sample, as the harness judges a model's answers.
        asks: What each sample asks, in all its wordings (`documents.wordings`).
    """

    asked: Asked
    metric_name: str
    size: int
    version: str
    higher_is_better: bool
    sha256: str
    answer: Callable[[nn.Module], Rows]
    asks: tuple[Example, ...]

    def score(self, model: nn.Module) -> TaskResult:
        """The model's score; its weights, modes, settings and random numbers stay as they are.

        Raises:
            InputError: The metric turns out to be no fraction.
        """
        from narrowtune.evaluation.harness.undisturbed import undisturbed

        with undisturbed(model) as inner:
            rows = self.answer(inner)
        scores = [float(row["score"]) for row in rows]
        self._check(scores)
        return TaskResult(
            value=sum(scores) / len(scores),
            n=len(scores),
            stderr=standard_error(scores, [str(row.get("cluster", "")) for row in rows]),
            task_version=self.version,
            higher_is_better=self.higher_is_better,
            samples=rows,
        )

    def _check(self, scores: list[float]) -> None:
        strange = [score for score in scores if not 0 <= score <= 1]
        if strange:
            raise InputError(
                f"{self.asked.source}: its metric {self.metric_name} gave a sample {strange[0]:g}; "
                "scores are fractions, 0 to 1: choose another of its metrics with `metric`"
            )
        if not scores:
            raise InputError(f"{self.asked.source}: no sample has its metric {self.metric_name}")


def version(asked: Asked, chosen: Headline, versions: Iterable[str]) -> str:
    """What a score rests on: `acc_norm+arc_easy/1.0+lm-eval/0.4.13`, and then what is asked.

    Args:
        asked: What differs from the task's own way of asking is named.
        chosen: The metric.
        versions: Those of the task, or of all tasks of a group.
    """
    package = package_version(HARNESSES[asked.harness])
    tasks = f"{asked.task}/{'&'.join(sorted(set(versions)))}"
    marks = [chosen.name, tasks, f"{asked.harness}/{package}"]
    if not chosen.averaged:
        marks.append("sample-mean")
    if asked.num_fewshot is not None:
        marks.append(f"{asked.num_fewshot}-shot")
    if asked.chat_template:
        marks.append("chat")
    if asked.max_new_tokens is not None:
        marks.append(f"{asked.max_new_tokens}-tokens")
    return "+".join(marks)
