"""A task whose value is no mean of scores (BLEU): changes by contributions, flips by scores."""

from __future__ import annotations

import pytest

from narrowtune.analysis import Sample, Samples, accuracy_matrix, flips
from narrowtune.analysis.significance import paired_tests
from narrowtune.evaluation.corpus import corpus_bleu, sentence_bleu

REFERENCES = [
    "a red robin sings here", "two crows sit in a tree", "the blue bird is left of it",
    "nobody saw the black bird", "there are seven birds in all", "the robin flew away at dawn",
]  # fmt: skip
BEFORE = [*REFERENCES[:4], "there are six birds in all", "crow"]
AFTER = [BEFORE[0], "two crows sat in the tree", *BEFORE[2:5], "the robin flew away"]


def answers(predictions: list[str]) -> dict[str, Sample]:
    parts = corpus_bleu(predictions, [[text] for text in REFERENCES]).contributions
    return {
        str(i): Sample(str(i), said, (wanted,), sentence_bleu(said, [wanted]), part)
        for i, (said, wanted, part) in enumerate(zip(predictions, REFERENCES, parts, strict=True))
    }


@pytest.fixture
def scored(make_record):
    before, after = (corpus_bleu(p, [[r] for r in REFERENCES]).value for p in (BEFORE, AFTER))
    record = make_record({("base", "base"): {"h1": before}, ("wide", "s1"): {"h1": after}}, n=6)
    rows = {("base", "base", "h1"): answers(BEFORE), ("wide", "s1", "h1"): answers(AFTER)}
    return record, Samples(rows), after - before


def test_the_change_is_that_of_the_corpus_score_and_paired(scored):
    record, samples, change = scored
    cell = accuracy_matrix(record, "wide", samples).cells["s1", "h1"]
    assert cell.change.pairing == "paired" and cell.change.value == pytest.approx(change)
    means = [sum(s.score for s in rows.values()) / 6 for rows in samples.rows.values()]
    assert abs(means[1] - means[0] - change) > 0.01  # a mean of sentence scores is another number


def test_only_answers_that_changed_are_counted_as_lost_or_gained(scored):
    record, samples, change = scored
    found = flips(record, "wide", "s1", "h1", samples)
    assert [flip.after.id for flip in found.lost] == ["1"]
    assert [flip.after.id for flip in found.gained] == ["5"]
    (test,) = paired_tests(record, samples, ("wide", "s1"), ["h1"])
    assert (test.lost, test.gained, test.mcnemar) == (1, 1, 1.0)
    assert test.bootstrap[0] <= change <= test.bootstrap[1]
