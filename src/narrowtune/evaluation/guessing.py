"""What answers are worth that know nothing of their question: the same ones, shuffled."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from narrowtune.evaluation.tasks import PreparedTask

PAIRS = 40_000
"""Pairings judged at most: all there are up to 200 samples, of more a fixed draw."""

SEED = 20251008

Pairing = Callable[[int], Sequence[float]]
"""What each answer is worth on the question so many places further on, round the end."""


def guesses(task: PreparedTask, samples: Sequence[Mapping[str, Any]]) -> list[float]:
    """What each sample puts into the score that its task's answers get on one another's questions.

    That score is the mean of what answer i is worth on question j, over all i and j that differ,
    by the task's own metric; of a metric over a whole test set (BLEU), its mean over rotations of
    the answers. Chance answers and questions both move it, so a sample counts with the mean of its
    answer over the other questions, plus the mean of the other answers on its question, less the
    score: the mean of these is the score, and their standard error that of the score (Hájek's
    projection of a U-statistic; van der Vaart 1998, "Asymptotic Statistics", chapter 12).

    A choice scored by likelihood is put to another question where that offers it too. Where it
    doesn't, nothing can be shuffled, and it counts as chance does there: right choices over all.

    Args:
        task: Whose questions they are.
        samples: Its answers, `TaskResult.samples`, in the same order.

    Returns:
        One number per sample. It may lie outside 0 to 1. A single sample has no other: 0.
    """
    count = len(samples)
    if count < 2:
        return [0.0] * count
    rotations, worth = _rotations(count), _pairing(task, samples)
    of_answer, of_question = [0.0] * count, [0.0] * count
    for by in rotations:
        for place, value in enumerate(worth(by)):
            of_answer[place] += value
            of_question[(place + by) % count] += value
    whole = math.fsum(of_answer) / count / len(rotations)
    sums = zip(of_answer, of_question, strict=True)
    return [(answer + question) / len(rotations) - whole for answer, question in sums]


def _rotations(count: int) -> list[int]:
    """Of a ring of questions; in all of them together each answer meets each other question."""
    most = max(PAIRS // count, 1)
    every = range(1, count)
    return list(every) if len(every) <= most else random.Random(SEED).sample(every, most)


def _pairing(task: PreparedTask, samples: Sequence[Mapping[str, Any]]) -> Pairing:
    said = [str(sample["prediction"]) for sample in samples]
    references = [example.references for example in task.examples]
    corpus = task.metric.corpus if task.scoring == "generate" else None

    def over_corpus(by: int) -> Sequence[float]:
        assert corpus is not None
        return corpus(said, [*references[by:], *references[:by]]).contributions

    def one_by_one(by: int) -> Sequence[float]:
        return [worth(text, (place + by) % len(said)) for place, text in enumerate(said)]

    worth = _of_answer(task) if task.scoring == "generate" else _of_choice(task)
    return one_by_one if corpus is None else over_corpus


def _of_answer(task: PreparedTask) -> Callable[[str, int], float]:
    """What a text is worth on the question at a place."""
    judge = functools.cache(task.metric.score)  # most answers and questions have their like
    asked = [(example.references, example.choices) for example in task.examples]
    return lambda text, place: judge(text, *asked[place])


def _of_choice(task: PreparedTask) -> Callable[[str, int], float]:
    offered = [[choice.strip() for choice in example.choices] for example in task.examples]

    def worth(text: str, place: int) -> float:
        right, choices = task.golds[place], offered[place]
        if text.strip() in choices:
            return float(any(choices[one] == text.strip() for one in right))
        return len(right) / len(choices)

    return worth
