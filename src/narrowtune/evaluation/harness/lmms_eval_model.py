"""Models as lmms-eval wants them: ours in memory, and one that only rehearses a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from lmms_eval.api.model import lmms

from narrowtune.evaluation.evaluate import score

if TYPE_CHECKING:
    from torch import nn

    from narrowtune.evaluation.tasks import PreparedTask


class Loss(str):
    """A choice's mean loss per token (nats) on its way through lmms-eval, unpacked as a pair.

    lmms-eval's models give losses where lm-eval's give log-likelihoods, and it takes the lowest.
    Its evaluator (0.7) turns every answer that is no text into text, pairs included, and then
    fails to unpack it: a text that unpacks as a pair passes.
    """

    __slots__ = ("nats",)
    nats: float

    @classmethod
    def of(cls, nats: float) -> Loss:
        """The loss; whether greedy decoding would say the choice is not looked at."""
        made = cls(nats)
        made.nats = nats
        return made

    def __iter__(self) -> Iterator[Any]:
        return iter((self.nats, False))


class OneTaskModel(lmms):  # type: ignore[misc]
    """What evaluating a single task in a single process asks of a model."""

    is_simple = False
    accelerator = None  # lmms-eval would make one of its own, with settings of its own

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refused before a task gets here."""
        raise NotImplementedError

    def clean(self) -> None:
        """Nothing is let go: the model goes on being trained."""


class ModelInMemory(OneTaskModel):
    """A loaded model that answers a prepared task, greedily, in its own chat format.

    Args:
        model: The model.
        task: The prepared prompts, in the order of the documents.
        until: Texts that end an answer.
    """

    def __init__(self, model: nn.Module, task: PreparedTask, until: Sequence[str] = ()) -> None:
        super().__init__()
        self.network, self.prepared, self.until = model, task, tuple(until)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answer to each document asked about, cut where the task says that it ends."""
        answers = {row["id"]: str(row["prediction"]) for row in self._samples()}
        return [self._cut(answers[str(request.doc_id)]) for request in requests]

    def loglikelihood(self, requests: Sequence[Any]) -> list[Loss]:
        """The loss of each choice asked about."""
        choices = {row["id"]: row["choices"] for row in self._samples()}
        return [Loss.of(-choices[str(one.doc_id)][one.idx]["per_token"]) for one in requests]

    def _samples(self) -> list[dict[str, Any]]:
        return score(self.network, self.prepared).samples

    def _cut(self, answer: str) -> str:
        for end in self.until:
            answer = answer.partition(end)[0] if end else answer
        return answer


class Rehearsal(OneTaskModel):
    """Says the expected answer to some documents and nothing to the rest.

    What a task makes of that shows its metrics before a model has been asked. Which documents is
    drawn: answers right in turn would give each half of a test set the same mean.

    Args:
        expected: The right answer to each document.
        share: Of the documents, how many are answered.
    """

    def __init__(self, expected: Mapping[int, str], share: float) -> None:
        super().__init__()
        self.expected, self.share = expected, share

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Right or empty."""
        return [self.expected[one.doc_id] if self._known(one.doc_id) else "" for one in requests]

    def loglikelihood(self, requests: Sequence[Any]) -> list[Loss]:
        """The first choice is the likeliest, or the last."""
        return [
            Loss.of(1.0 + (one.idx if self._known(one.doc_id) else 1 / (1 + one.idx)))
            for one in requests
        ]

    def _known(self, document: int) -> bool:
        return Random(f"{self.share} {document}").random() < self.share
