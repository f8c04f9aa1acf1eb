"""BLEU as sacrebleu has it, and a corpus metric spread over its samples."""

import math
import random
import statistics
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_examples import example
from sacrebleu.metrics.bleu import BLEU

from narrowtune.evaluation import METRICS, evaluate, misfits, standard_error
from narrowtune.evaluation.corpus import contributions, corpus_bleu, sentence_bleu

VOCABULARY = "the a red blue robin crow sits sings on in tree 12.5 3:59 , ( ) well-known"
WORDS = VOCABULARY.split()
SENTENCE = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
CORPUS = st.lists(
    st.tuples(SENTENCE, st.lists(SENTENCE, min_size=1, max_size=3)), min_size=1, max_size=8
)


def sacrebleus(predictions, references):
    """The library's own number, 0 to 1; missing references are None to it."""
    most = max(map(len, references))
    streams = [[row[i] if i < len(row) else None for row in references] for i in range(most)]
    return BLEU().corpus_score(list(predictions), streams).score / 100


@given(CORPUS)
def test_bleu_is_sacrebleus(rows):
    predictions, references = zip(*rows, strict=True)
    found = corpus_bleu(predictions, references)
    assert found.value == pytest.approx(sacrebleus(predictions, references), abs=1e-9)
    assert 0.0 <= found.value <= 1.0
    assert len(found.contributions) == len(rows)
    assert statistics.fmean(found.contributions) == pytest.approx(found.value, abs=1e-9)


@given(CORPUS)
def test_the_order_of_samples_does_not_matter_to_bleu(rows):
    predictions, references = zip(*rows, strict=True)
    found, turned = (
        corpus_bleu(predictions, references),
        corpus_bleu(predictions[::-1], references[::-1]),
    )
    assert found.value == turned.value
    assert found.contributions == pytest.approx(turned.contributions[::-1], abs=1e-9)


def test_bleu_by_hand():
    # Runs in common: 5 of 6, 3 of 5, 1 of 4, and 0 of 3, which `exp` smoothing makes 1 of 6.
    said, reference = "the cat sat on the mat", "the cat is on the mat"
    by_hand = (5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25
    assert corpus_bleu([said], [[reference]]).value == pytest.approx(by_hand)
    assert METRICS["bleu"].score(said, [reference]) == pytest.approx(by_hand)


BLEU_CASES = [
    ("the cat is on the mat", "the cat is on the mat", 1), ("yes", "yes", 1), ("Yes", "yes", 0),
    ("", "the cat is on the mat", 0), ("no such words", "the cat is on the mat", 0),
    ("12.5", "12.5", 1), ("125", "12.5", 0), ("seventeen", "17", 0), ("none", "0", 0),
    ("often", "ten", 0),
    # Three tokens each, the colon in common: 1 of 3, then `exp` smoothing.
    ("3:59", "4:00", (1 / 3 * 1 / 4 * 1 / 4) ** (1 / 3)),
]  # fmt: skip


@pytest.mark.parametrize(("said", "reference", "score"), BLEU_CASES)
def test_bleu_of_one_answer(said, reference, score):
    assert METRICS["bleu"].score(said, [reference]) == pytest.approx(score, abs=1e-9)


def test_one_answer_may_match_several_references_at_once():
    several = sentence_bleu("a red robin sings", ["a red robin", "robin sings"])
    assert several > max(
        sentence_bleu("a red robin sings", [one]) for one in ("a red robin", "robin sings")
    )


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_the_contributions_to_a_mean_are_the_samples(scores):
    whole = statistics.fmean(scores)
    without = [(sum(scores) - one) / (len(scores) - 1) for one in scores]
    assert contributions(whole, without) == pytest.approx(tuple(scores), abs=1e-9)


def noisy(count, quality, seed):
    """Sentences, and answers to them in which a word is right with the given probability."""
    draw = random.Random(seed)
    truths = [draw.choices(WORDS, k=draw.randint(4, 14)) for _ in range(count)]
    said = [[w if draw.random() < quality else draw.choice(WORDS) for w in t] for t in truths]
    return [" ".join(words) for words in said], [[" ".join(words)] for words in truths]


def bootstrap_bleu(predictions, references, draws):
    """BLEU of every draw (rows of sample numbers), by sacrebleu from its counts."""
    scores = [
        BLEU(effective_order=True).sentence_score(prediction, list(accepted))
        for prediction, accepted in zip(predictions, references, strict=True)
    ]
    counts = np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in scores])
    sums = counts[draws].sum(axis=1).tolist()
    found = [BLEU.compute_bleu(row[:4], row[4:8], row[8], row[9], "exp") for row in sums]
    return np.array([score.score / 100 for score in found])


def test_the_standard_error_is_that_of_sacrebleus_bootstrap():
    predictions, references = noisy(200, 0.8, seed=1)
    found = corpus_bleu(predictions, references)
    bootstrap = BLEU().corpus_score(predictions, [[r[0] for r in references]], n_bootstrap=1000)
    assert 1.96 * standard_error(found.contributions) == pytest.approx(
        bootstrap._ci / 100, rel=0.12
    )


def test_a_paired_difference_has_the_error_of_a_paired_bootstrap():
    before, references = noisy(150, 0.85, seed=2)
    draw = random.Random(3)
    after = [text if draw.random() < 0.7 else text.replace("robin", "crow") for text in before]
    parts = [corpus_bleu(said, references).contributions for said in (after, before)]
    error = standard_error([b - a for b, a in zip(*parts, strict=True)])
    draws = np.random.default_rng(4).integers(0, 150, (1000, 150))
    after_drawn, before_drawn = (bootstrap_bleu(x, references, draws) for x in (after, before))
    assert error == pytest.approx((after_drawn - before_drawn).std(ddof=1), rel=0.12)
    unpaired = math.hypot(*map(standard_error, parts))
    assert error < 0.7 * unpaired  # the pairing is worth something


def test_a_task_scored_by_bleu(tiny, questions):
    model, processing = tiny("llama").model, tiny("llama").processing
    rows = questions(6, False)
    said = evaluate(model, processing, rows, metric="exact", max_new_tokens=12).samples
    wanted = [
        replace(
            row,
            references=("a red robin sings here", one["prediction"]) if i % 2 else ("x y z w v",),
        )
        for i, (row, one) in enumerate(zip(rows, said, strict=True))
    ]
    found = evaluate(model, processing, wanted, metric="bleu", max_new_tokens=12)
    predictions = [sample["prediction"] for sample in found.samples]
    assert predictions == [one["prediction"] for one in said]
    assert found.value == pytest.approx(sacrebleus(predictions, [w.references for w in wanted]))
    assert 0.0 < found.value < 1.0 and found.task_version == "bleu/1+generate/1"
    parts = [sample["contribution"] for sample in found.samples]
    assert statistics.fmean(parts) == pytest.approx(found.value)
    assert found.stderr == standard_error(parts) > 0
    assert all(
        sample["score"] == sentence_bleu(sample["prediction"], sample["references"])
        for sample in found.samples
    )


def test_choices_by_likelihood_are_right_or_wrong_whatever_the_metric(tiny, questions):
    model, processing = tiny("llama").model, tiny("llama").processing
    rows = questions(4, False, choices=("red robin", "crow"))
    found = evaluate(model, processing, rows, metric="bleu", scoring="likelihood")
    assert {sample["score"] for sample in found.samples} <= {0.0, 1.0}
    assert found.value == sum(sample["score"] for sample in found.samples) / 4
    assert all("contribution" not in sample for sample in found.samples)


def test_references_too_short_for_bleu_are_refused_as_a_whole():
    (told,) = misfits("bleu", [example("red"), example("two birds", "2", line=2)])
    assert "runs of four words" in told and "'f1'" in told
    assert misfits("bleu", [example("red"), example("a red robin sings", line=2)]) == []
