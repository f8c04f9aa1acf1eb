"""Scoring a model on a task: the answers, what each is worth, and their mean with its error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from narrowtune.data.example import Example
from narrowtune.evaluation.tasks import How, PreparedTask, TaskResult, prepare, standard_error

if TYPE_CHECKING:
    from torch import nn

    from narrowtune.evaluation.likelihood import ChoiceScore
    from narrowtune.models.correcting import Correction
    from narrowtune.models.processing import Processing


def evaluate(
    model: nn.Module, processing: Processing, examples: Iterable[Example], **how: Unpack[How]
) -> TaskResult:
    """The model's score on `examples`.

    To score the same task on several models, `prepare` it once and call `score`.

    Args:
        model: A transformers model; its weights, modes and settings are left as they are.
        processing: Its tokenizer, chat template and image processor.
        examples: The task, in file order.
        **how: `metric`, `scoring`, `batch_size`, `max_new_tokens`; see `How`.

    Raises:
        InputError: The task cannot be scored this way; everything that is wrong, with its line.
    """
    return score(model, prepare(processing, examples, how))


def score(model: nn.Module, task: PreparedTask, correction: Correction | None = None) -> TaskResult:
    """The model's score on a prepared task, its output corrected if asked.

    Raises:
        TypeError: Choices scored by likelihood are corrected by `TokenOffsets` alone.
    """
    answer = _generated if task.scoring == "generate" else _by_choice
    samples = answer(model, task, correction)
    for sample, cluster in zip(samples, task.clusters, strict=True):
        sample |= {"cluster": cluster} if cluster else {}
    value, parts = _over_all(task, samples)
    return TaskResult(
        value=value,
        n=len(parts),
        stderr=standard_error(parts, task.clusters),
        task_version=task.version,
        higher_is_better=task.metric.higher_is_better,
        samples=samples,
    )


def _over_all(task: PreparedTask, samples: list[dict[str, Any]]) -> tuple[float, list[float]]:
    """The task's value, and what each sample puts into it: numbers whose mean it is."""
    corpus = task.metric.corpus if task.scoring == "generate" else None
    if corpus is None:
        scores = [float(sample["score"]) for sample in samples]
        return sum(scores) / len(scores), scores
    predictions = [str(sample["prediction"]) for sample in samples]
    whole = corpus(predictions, [example.references for example in task.examples])
    for sample, part in zip(samples, whole.contributions, strict=True):
        sample["contribution"] = part
    return whole.value, list(whole.contributions)


def _generated(
    model: nn.Module, task: PreparedTask, correction: Correction | None
) -> list[dict[str, Any]]:
    from narrowtune.data.batches import Batches
    from narrowtune.models.generation import generate_answers

    assert isinstance(task.batches, Batches)
    answers = generate_answers(
        model, task.processing, task.batches, task.max_new_tokens, correction
    )
    return [
        {
            "id": example.id,
            "prediction": answer.text,
            "references": list(example.references),
            "score": task.metric.score(answer.text, example.references, example.choices),
            "truncated": answer.truncated,
        }
        for example, answer in zip(task.examples, answers, strict=True)
    ]


def _by_choice(
    model: nn.Module, task: PreparedTask, correction: Correction | None
) -> list[dict[str, Any]]:
    from narrowtune.evaluation.likelihood import score_choices
    from narrowtune.evaluation.questions import Questions
    from narrowtune.models.correcting import TokenOffsets

    assert isinstance(task.batches, Questions)
    if not isinstance(correction, TokenOffsets | None):
        raise TypeError(f"{type(correction).__name__} corrects greedy answers, not likelihoods")
    scored = score_choices(model, task.batches, correction)
    by_sum = task.scoring == "likelihood-sum"
    rows = zip(task.examples, task.golds, scored, strict=True)
    return [_choice_sample(example, gold, choices, by_sum) for example, gold, choices in rows]


def _choice_sample(
    example: Example, gold: frozenset[int], choices: Sequence[ChoiceScore], by_sum: bool
) -> dict[str, Any]:
    """One sample's record; of equally likely choices the first is taken, as lm-eval does."""
    places = range(len(choices))
    likeliest = max(places, key=lambda place: choices[place].total)
    likeliest_per_character = max(places, key=lambda place: choices[place].per_character)
    taken = likeliest if by_sum else likeliest_per_character
    return {
        "id": example.id,
        "prediction": choices[taken].text,
        "references": list(example.references),
        "score": float(taken in gold),
        "acc": float(likeliest in gold),
        "acc_norm": float(likeliest_per_character in gold),
        "choices": [choice.to_dict() for choice in choices],
    }
