"""What is computed once and used again gives what computing it anew gives."""

from __future__ import annotations

import numpy as np
import pytest

from narrowtune.analysis import Sample, Samples, resampling
from narrowtune.analysis.matrix import change_over, score_table
from narrowtune.analysis.resampling import drawn, resampled_means

STEPS = [("h1", ("base", "base"), ("wide", "s1"))]


@pytest.mark.parametrize("sizes", [(1, 12, 12), (3, 12, 5), (12, 300, 12)])
def test_kept_draws_are_those_drawn_anew(sizes, monkeypatch):
    """Also the second time, in another order of calls, and after draws too large to be kept."""

    def draw(kept):
        monkeypatch.setattr(resampling, "LARGEST_KEPT", kept)
        chance = np.random.default_rng(7)
        return [drawn(size, chance, 50) for size in sizes], chance.random()

    anew, after = draw(kept=0)
    for kept in (1000, 1000, 100):
        again, then = draw(kept)
        assert after == then
        assert all((one == two).all() for one, two in zip(anew, again, strict=True))
    assert all(
        one.sum(axis=1).tolist() == [size] * 50 for one, size in zip(anew, sizes, strict=True)
    )


def test_kept_draws_are_not_changed_by_their_user():
    first = drawn(9, np.random.default_rng(3), 20)
    before = first.copy()
    first += 1
    assert (drawn(9, np.random.default_rng(3), 20) == before).all()


def test_an_interval_is_the_same_after_others(monkeypatch):
    rng = np.random.default_rng(0)
    tasks = [(rng.random((n, 2, 1)), [str(i // 2) for i in range(n)]) for n in (8, 20)]
    monkeypatch.setattr(resampling, "LARGEST_KEPT", 0)
    alone = [resampled_means(part, (1, 1), 100) for part in (tasks, tasks[1:], tasks)]
    monkeypatch.setattr(resampling, "LARGEST_KEPT", 1000)
    kept = [resampled_means(part, (1, 1), 100) for part in (tasks, tasks[1:], tasks)]
    for one, two in zip(alone, kept, strict=True):
        assert all((a == b).all() for a, b in zip(one, two, strict=True))


def test_a_record_that_went_on_has_a_table_of_its_own(make_record):
    record = make_record({("base", "base"): {"h1": 0.5}, ("wide", "s1"): {"h1": 0.5}}, n=4)
    assert score_table(record) is score_table(record)
    lower = record.scores[-1].model_copy(update={"value": 0.25})
    later = record.model_copy(update={"scores": (*record.scores, lower)})
    assert score_table(later)["wide", "s1", "h1"].value == 0.25
    assert score_table(record)["wide", "s1", "h1"].value == 0.5


def test_answers_are_used_again_only_where_they_fit_the_score(make_record):
    """The same answers beside two records: what is kept of them knows nothing of scores."""
    rows = {
        ("base", "base", "h1"): {str(i): Sample(str(i), "a", ("a",), 1.0) for i in range(4)},
        ("wide", "s1", "h1"): {str(i): Sample(str(i), "a", ("a",), i / 4) for i in range(4)},
    }
    samples = Samples(rows)
    scores = {("base", "base"): {"h1": 1.0}, ("wide", "s1"): {"h1": 0.375}}
    stale = {("base", "base"): {"h1": 1.0}, ("wide", "s1"): {"h1": 0.5}}
    for found, pairing in ((scores, "paired"), (stale, "unpaired"), (scores, "paired")):
        change = change_over(make_record(found, n=4), samples, STEPS)
        assert change.pairing == pairing
    fewer = Samples(rows | {("wide", "s1", "h1"): dict(list(rows["wide", "s1", "h1"].items())[1:])})
    assert change_over(make_record(scores, n=4), fewer, STEPS).pairing == "unpaired"
    assert samples == Samples(rows)  # what is kept makes no difference between them
