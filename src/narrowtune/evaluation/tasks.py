"""A task made ready for a model's processing, and what scoring it gives. No torch at import."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, get_args

from narrowtune.analysis.clusters import design_effect
from narrowtune.data.example import Example
from narrowtune.data.formats import shorten
from narrowtune.errors import InputError, Problems, nearest
from narrowtune.evaluation.metrics import Metric, metric_named, misfits

if TYPE_CHECKING:
    from torch import nn

    from narrowtune.data.batches import Batches
    from narrowtune.data.encoding import Encoded
    from narrowtune.evaluation.questions import Questions
    from narrowtune.models.processing import Processing

Scoring = Literal["generate", "likelihood", "likelihood-sum"]
SCORING_REVISIONS: dict[str, int] = {"generate": 1, "likelihood": 1, "likelihood-sum": 1}
"""Raised whenever the same model would be scored differently by that way of scoring."""


class How(TypedDict, total=False):
    """How a task is answered and judged.

    Attributes:
        metric: A name in `METRICS`; "exact" unless given.
        scoring: "generate" (greedy answer, the default), "likelihood" (the choice with the
            highest log-likelihood per character) or "likelihood-sum" (the highest sum).
        batch_size: Sequences at once, 64 unless given; changes speed and memory, not the score.
        max_new_tokens: The longest greedy answer, 32 tokens unless given.
    """

    metric: str
    scoring: Scoring
    batch_size: int
    max_new_tokens: int


@dataclass(frozen=True)
class TaskResult:
    """A task's value on one model.

    Attributes:
        value: Mean score of the samples, 0 to 1; a corpus metric's own value.
        n: Samples.
        stderr: Standard error of that mean (see `standard_error`).
        task_version: Metric and way of scoring, each with its revision.
        higher_is_better: The value's direction.
        samples: One dictionary per example in file order, ready for JSONL: id, prediction,
            references, score; `cluster` where samples may share images or say what they share;
            `truncated` for generated answers, `contribution` by a corpus metric;
            the choices' log-likelihoods and right or wrong by either normalisation (`acc`,
            `acc_norm`) for scored choices.
    """

    value: float
    n: int
    stderr: float
    task_version: str
    higher_is_better: bool
    samples: list[dict[str, Any]]


class Task(Protocol):
    """What can be scored on any number of models: a file of ours, or a public harness's task."""

    @property
    def size(self) -> int:
        """How many samples it has."""

    @property
    def metric_name(self) -> str:
        """What judges the answers, as recorded."""

    @property
    def version(self) -> str:
        """What a score rests on; scores of different versions are not comparable."""

    def score(self, model: nn.Module) -> TaskResult:
        """The model's score; it is left as it was."""


@dataclass(frozen=True)
class PreparedTask:
    """A task checked and encoded once, to be scored on any number of models.

    Attributes:
        examples: In file order.
        metric: Judges the answers.
        scoring: How answers are had.
        max_new_tokens: The longest greedy answer.
        processing: The model's tokenizer and image processor.
        batches: One prompt per example, or the choices of each behind a prompt they share.
        golds: The right choices' places per example; empty when answers are generated.
    """

    examples: tuple[Example, ...]
    metric: Metric
    scoring: Scoring
    max_new_tokens: int
    processing: Processing
    batches: Batches | Questions
    golds: tuple[frozenset[int], ...]

    @cached_property
    def clusters(self) -> tuple[str, ...]:
        """What each example shares with others: its own word, or a digest of its images; or ""."""
        return tuple(example.cluster or _of_images(example.images) for example in self.examples)

    def again(
        self,
        examples: Iterable[Example] | None = None,
        *,
        batch_size: int | None = None,
        max_new_tokens: int | None = None,
    ) -> PreparedTask:
        """The same task on other examples, so many sequences at once, or with longer answers."""
        how: How = {
            "metric": self.metric.name,
            "scoring": self.scoring,
            "batch_size": batch_size or self.batches.batch_size,
            "max_new_tokens": max_new_tokens or self.max_new_tokens,
        }
        return prepare(self.processing, self.examples if examples is None else examples, how)

    @property
    def size(self) -> int:
        """How many samples it has."""
        return len(self.examples)

    @property
    def metric_name(self) -> str:
        """The metric's name in `METRICS`."""
        return self.metric.name

    def score(self, model: nn.Module) -> TaskResult:
        """The model's score, as `evaluation.score` gives it."""
        from narrowtune.evaluation.evaluate import score

        return score(model, self)

    @property
    def version(self) -> str:
        """What a score of this task rests on: metric and way of scoring with their revisions."""
        return f"{self.metric.version}+{self.scoring}/{SCORING_REVISIONS[self.scoring]}"


def _of_images(images: Sequence[Path]) -> str:
    if not images:
        return ""
    return hashlib.sha256(b"".join(sorted(path.read_bytes() for path in images))).hexdigest()[:16]


def standard_error(scores: Sequence[float], clusters: Sequence[str] = ()) -> float:
    """Standard error of the mean: sample standard deviation (n - 1) over the root of n.

    Where samples share clusters it grows by the root of the design effect (`analysis.clusters`).

    For right-or-wrong scores that is sqrt(p (1 - p) / (n - 1)), as lm-eval reports it. One sample
    tells nothing about spread, so n = 1 gives 0.5, the largest value any n can give, not 0.
    It is 0 when all samples agree; that is no proof of certainty for small n.
    """
    if len(scores) < 2:
        return 0.5
    alone = statistics.stdev(scores) / math.sqrt(len(scores))
    own = [one or f"#{place}" for place, one in enumerate(clusters)]
    return alone * math.sqrt(design_effect(scores, own)) if own else alone


def prepare(processing: Processing, examples: Iterable[Example], how: How) -> PreparedTask:
    """Check and encode a task; everything that can be wrong with it is told here.

    Raises:
        InputError: Unknown metric or scoring, no examples, references the metric cannot read,
            choices missing or without the right one, prompts too long; all with their lines.
    """
    rows = tuple(examples)
    metric = metric_named(how.get("metric", "exact"))
    scoring = how.get("scoring", "generate")
    if scoring not in get_args(Scoring):
        raise InputError(f"no scoring is called {scoring!r}: {nearest(scoring, get_args(Scoring))}")
    if not rows:
        raise InputError("the task has no examples to score")
    tokens = how.get("max_new_tokens", 32)
    golds: tuple[frozenset[int], ...] = ()
    problems = Problems()
    if scoring == "generate":
        problems.add(misfits(metric.name, rows))
        with problems.collect():
            prompts = _encode_prompts(rows, processing, tokens)
    else:
        golds = tuple(right_choices(example, metric) for example in rows)
        pairs = zip(rows, golds, strict=True)
        problems.add([problem for pair in pairs for problem in _wrong(*pair)])
        with problems.collect():
            choices = _encode_choices(rows, processing)
    _refuse(problems.found)
    from narrowtune.data.batches import Batches
    from narrowtune.evaluation.questions import Questions

    size = how.get("batch_size", 64)
    batches: Batches | Questions
    if scoring == "generate":
        batches = Batches(prompts, processing, size, "left")
    else:
        batches = Questions(choices, processing, size)
    return PreparedTask(rows, metric, scoring, tokens, processing, batches, golds)


def right_choices(example: Example, metric: Metric) -> frozenset[int]:
    """The places of the choices that are accepted: written as a reference is, else by metric."""
    accepted = {reference.strip() for reference in example.references}
    places = [i for i, choice in enumerate(example.choices) if choice.strip() in accepted]
    if not places:
        places = [
            place
            for place, choice in enumerate(example.choices)
            if metric.score(choice, example.references, example.choices) == 1.0
        ]
    return frozenset(places)


def _wrong(example: Example, gold: frozenset[int]) -> list[str]:
    """What keeps an example from being scored by likelihood."""
    if len(example.choices) < 2:
        return [
            f"{example.source}: scoring by likelihood needs a row's `choices`, two at least; "
            f"it has {len(example.choices)}"
        ]
    if not gold:
        return [
            f"{example.source}: the reference {example.references[0]!r} is none of the choices "
            f"{list(example.choices)}"
        ]
    return []


def _encode_prompts(
    examples: Sequence[Example], processing: Processing, room: int
) -> list[Encoded]:
    """Every prompt, with `room` tokens left for its answer."""
    from narrowtune.data.encoding import encode_prompts

    def check(prompt: Encoded) -> None:
        most = processing.max_length
        if most is not None and len(prompt) + room > most:
            raise InputError(
                f"a prompt of {len(prompt)} tokens leaves no room for {room} new ones "
                f"(max_new_tokens) within the {most} positions of the model; shorten it, or allow "
                "fewer"
            )

    return encode_prompts(examples, processing, check=check)


def _encode_choices(examples: Sequence[Example], processing: Processing) -> list[list[Encoded]]:
    """Every example once per choice."""
    from narrowtune.evaluation.likelihood import encode_choices

    encoded, problems = [], Problems()
    for example in examples:
        with problems.collect():
            encoded.append(encode_choices(example, processing))
    problems.check()
    return encoded


def _refuse(problems: Sequence[str]) -> None:
    """Raise all problems at once, the first of them in full."""
    if problems:
        raise InputError(shorten(problems))
