"""How an answer is judged: ten metrics, each a name, a version and pure functions.

A metric reads the prediction and every reference with the same reader and compares what it finds;
what cannot be read is wrong. A change that can change a score raises the metric's revision, and
with it the version that stands in every record. No torch here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from narrowtune.data.example import Example
from narrowtune.errors import InputError, nearest
from narrowtune.evaluation.agreement import (
    Comparison,
    anls,
    best,
    consensus,
    relaxed,
    times_agree,
    word_f1,
)
from narrowtune.evaluation.corpus import CorpusScore, corpus_bleu, sentence_bleu
from narrowtune.evaluation.reading.chart import read_chart
from narrowtune.evaluation.reading.clock import read_clock
from narrowtune.evaluation.reading.number import read_number
from narrowtune.evaluation.reading.option import read_option
from narrowtune.evaluation.reading.vqa import read_vqa
from narrowtune.evaluation.reading.words import normalised, single_spaced
from narrowtune.evaluation.reading.yes_no import read_yes_no

Reader = Callable[[str, Sequence[str]], Any]
OverCorpus = Callable[[Sequence[str], Sequence[Sequence[str]]], CorpusScore]
EQUAL_TO_ANY = best(operator.eq)


@dataclass(frozen=True)
class Metric:
    """A way to judge one answer, from 1.0 (right) to 0.0 (wrong).

    Attributes:
        name: As written in an experiment.
        revision: Raised whenever some answer would be judged differently.
        asks_for: What an answer must hold to be readable, for error messages.
        read: The answer's value given its text and the task's choices; None if unreadable.
        compare: What a value is worth, given the accepted ones.
        fewest_references: With fewer accepted answers not even the right one is worth 1.0.
        corpus: Where the task's value is no mean over samples: value and each sample's
            contribution, from all predictions and their references.
        higher_is_better: True for every metric so far.
    """

    name: str
    revision: int
    asks_for: str
    read: Reader
    compare: Comparison = EQUAL_TO_ANY
    fewest_references: int = 1
    corpus: OverCorpus | None = None
    higher_is_better: bool = True

    @property
    def version(self) -> str:
        """Name and revision, as recorded with every score."""
        return f"{self.name}/{self.revision}"

    def score(
        self, prediction: str, references: Sequence[str], choices: Sequence[str] = ()
    ) -> float:
        """What `prediction` is worth, 0 to 1, where any of `references` is accepted."""
        said = self.read(prediction, choices)
        if said is None:
            return 0.0
        return self.compare(said, [self.read(reference, choices) for reference in references])


def _whole(read: Callable[[str], Any]) -> Reader:
    """A reader to which the choices make no difference."""
    return lambda text, choices: read(text)


def _words(text: str) -> str | None:
    return normalised(text) or None


def _bleu(said: str, accepted: Sequence[str | None]) -> float:
    return sentence_bleu(said, [text for text in accepted if text is not None])


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("exact", 1, "words", _whole(_words)),
        Metric("option", 2, "a choice's letter", read_option),
        Metric("number", 1, "a number", _whole(read_number)),
        Metric("clock", 1, "a time as HH:MM", _whole(read_clock), best(times_agree)),
        Metric("yes_no", 1, "yes or no", _whole(read_yes_no)),
        Metric("vqa", 1, "words", _whole(read_vqa), consensus, fewest_references=4),
        Metric("anls", 1, "text", lambda text, choices: single_spaced(text) or None, best(anls)),
        Metric("relaxed", 1, "a number or words", _whole(read_chart), best(relaxed)),
        Metric("f1", 1, "words", _whole(_words), best(word_f1)),
        Metric("bleu", 1, "words", lambda text, _: text.strip() or None, _bleu, corpus=corpus_bleu),
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
    """What keeps the right answers of a task from scoring 1.0, one sentence each.

    A task whose own answers are unreadable would score 0 for every model, in silence.
    """
    judge, rows = metric_named(metric), list(examples)
    problems = [problem for row in rows for problem in _misfits(judge, row)]
    if problems or judge.corpus is None or not rows:
        return problems
    answered = judge.corpus([row.references[0] for row in rows], [row.references for row in rows])
    if answered.value > 1 - 1e-6:
        return []
    return [
        f"metric {metric!r} gives the references themselves {answered.value:.2f}, not 1: it counts "
        "runs of four words, and none of them is that long. 'f1' fits short answers"
    ]


def _misfits(judge: Metric, example: Example) -> Iterator[str]:
    given = len(example.references)
    if given < judge.fewest_references:
        yield (
            f"{example.source}: metric {judge.name!r} needs the answers of "
            f"{judge.fewest_references} annotators or more in `references`, equal ones repeated; "
            f"this row has {given}. Use 'exact' where one accepted answer is enough"
        )
        return
    unread = [text for text in example.references if judge.read(text, example.choices) is None]
    # Among many annotators an odd one changes little; where any answer is enough, all must do.
    if judge.fewest_references > 1 and len(unread) < given:
        return
    for reference in unread:
        yield (
            f"{example.source}: metric {judge.name!r} finds no "
            f"{judge.asks_for.removeprefix('a ')} in the reference {reference!r}"
        )
