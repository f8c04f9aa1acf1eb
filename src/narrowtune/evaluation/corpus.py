"""Metrics of a whole test set at once: BLEU, its value and what each sample puts into it."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU, BLEUScore


@dataclass(frozen=True)
class CorpusScore:
    """A value that is no mean over samples, spread over them so that it can be treated as one.

    Attributes:
        value: Of the whole test set, 0 to 1.
        contributions: One per sample, in order; their mean is `value`, their standard error of
            the mean the jackknife's (see `contributions`). One alone may lie outside 0 to 1.
    """

    value: float
    contributions: tuple[float, ...]


def contributions(value: float, without: Sequence[float]) -> tuple[float, ...]:
    """The jackknife's pseudo-values (Efron & Tibshirani 1993, section 11.3), moved to mean `value`.

    Args:
        value: Of all n samples.
        without: The value without each of them.

    A sample counts value + (n - 1) (mean of `without` - its own). For a mean these are the samples
    themselves, so paired differences, clusters and resampling work on them as they do there.
    """
    middle = math.fsum(without) / len(without)
    return tuple(value + (len(without) - 1) * (middle - one) for one in without)


def corpus_bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> CorpusScore:
    """BLEU (Papineni et al. 2002) over a test set, a fraction, as sacrebleu has it (Post 2018).

    Its defaults: up to four words in a row, 13a tokens, `exp` smoothing, case counts; of several
    references the one next in length sets the brevity penalty.
    """
    counts = [
        _Counts.of(_bleu().sentence_score(prediction, list(accepted)))
        for prediction, accepted in zip(predictions, references, strict=True)
    ]
    total = functools.reduce(_Counts.plus, counts)
    value = total.bleu()
    if len(counts) == 1:
        return CorpusScore(value, (value,))
    return CorpusScore(value, contributions(value, [total.less(one).bleu() for one in counts]))


def sentence_bleu(prediction: str, references: Sequence[str]) -> float:
    """BLEU of one answer, 0 to 1, over as many words in a row as it has (`effective_order`)."""
    return min(_bleu().sentence_score(prediction, list(references)).score / 100, 1.0)


@functools.cache
def _bleu() -> BLEU:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=True)


@dataclass(frozen=True)
class _Counts:
    """What BLEU is computed from; the sum over samples gives the test set's."""

    matched: tuple[int, ...]
    given: tuple[int, ...]
    length: int
    wanted_length: int

    @classmethod
    def of(cls, score: BLEUScore) -> _Counts:
        return cls(tuple(score.counts), tuple(score.totals), score.sys_len, score.ref_len)

    def plus(self, other: _Counts, sign: int = 1) -> _Counts:
        return _Counts(
            tuple(a + sign * b for a, b in zip(self.matched, other.matched, strict=True)),
            tuple(a + sign * b for a, b in zip(self.given, other.given, strict=True)),
            self.length + sign * other.length,
            self.wanted_length + sign * other.wanted_length,
        )

    def less(self, other: _Counts) -> _Counts:
        return self.plus(other, sign=-1)

    def bleu(self) -> float:
        score = _bleu().compute_bleu(
            list(self.matched), list(self.given), self.length, self.wanted_length, "exp"
        )
        return min(score.score / 100, 1.0)
