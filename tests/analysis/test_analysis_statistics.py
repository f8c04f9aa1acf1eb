"""Intervals and tests against hand-computed values, scipy, statsmodels and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.api import OLS
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests

from narrowtune.analysis.clusters import design_effect
from narrowtune.analysis.estimate import Contrast, Moments, average_change
from narrowtune.analysis.pooling import pooled_change, spread_of_runs
from narrowtune.analysis.resampling import percentile_interval, resampled_means
from narrowtune.analysis.significance import holm, mcnemar


def contrast(differences, task="t", clusters=None) -> Contrast:
    effect = design_effect(differences, clusters) if clusters else 1.0
    by_id = {str(i): d for i, d in enumerate(differences)}
    mean = sum(differences) / len(differences)
    return Contrast(mean, (Moments.of(differences),), task, effect, by_id)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (5, 0), (3, 9), (20, 18), (0, 1)])
def test_mcnemar_is_statsmodels_exact_one(lost: int, gained: int) -> None:
    theirs = their_mcnemar([[50, lost], [gained, 50]], exact=True).pvalue
    assert mcnemar(lost, gained) == pytest.approx(min(1.0, theirs))


def test_mcnemar_by_hand() -> None:
    assert mcnemar(5, 0) == pytest.approx(2 / 2**5)
    assert mcnemar(0, 0) == 1.0


@settings(max_examples=20)  # theirs takes a tenth of a second each
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_statsmodels(ps: list[float]) -> None:
    assert holm(ps) == pytest.approx(list(multipletests(ps, method="holm")[1]))


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])


def test_design_effect_is_statsmodels_cluster_robust_variance() -> None:
    chance = np.random.default_rng(0)
    clusters = np.repeat(np.arange(20), 5)
    values = chance.normal(size=100) + np.repeat(chance.normal(size=20), 5)
    fit = OLS(values, np.ones(100)).fit()
    robust = fit.get_robustcov_results("cluster", groups=clusters, df_correction=True)
    ratio = robust.cov_params()[0, 0] / (values.var(ddof=1) / 100)
    # statsmodels corrects by (n - 1) / (n - k), which is 1 for a mean alone.
    assert design_effect(list(values), [str(c) for c in clusters]) == pytest.approx(ratio, rel=1e-9)


def test_clusters_by_hand() -> None:
    """Two pairs that agree: as good as two samples, whose variance of the mean is 3 times."""
    # Residuals +-0.5: clusters' sums squared 1 + 1 = 2, / 16, x 2 = 1/4; alone 1 / 12.
    assert design_effect([1, 1, 0, 0], ["a", "a", "b", "b"]) == pytest.approx(3.0)
    assert design_effect([1, 0, 1, 0], ["a", "b", "c", "d"]) == 1.0
    assert design_effect([0, 0, 0, 0], ["a", "a", "b", "b"]) == pytest.approx(2.0)


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=4, max_size=40), st.integers(1, 5))
def test_clusters_never_narrow_an_interval(differences: list[float], size: int) -> None:
    clusters = [str(i // size) for i in range(len(differences))]
    wide = average_change([contrast(differences, clusters=clusters)])
    plain = average_change([contrast(differences)])
    assert wide is not None and plain is not None
    assert wide.half_width >= plain.half_width - 1e-12


def test_asking_every_question_five_times_does_not_make_it_surer() -> None:
    once = [1.0, 0.0, 0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0] * 4
    five = [x for x in once for _ in range(5)]
    clusters = [str(i // 5) for i in range(len(five))]
    honest = average_change([contrast(five, clusters=clusters)])
    naive, single = average_change([contrast(five)]), average_change([contrast(once)])
    assert honest is not None and naive is not None and single is not None
    assert honest.half_width == pytest.approx(single.half_width, rel=0.1)
    assert naive.half_width < 0.6 * honest.half_width


def test_bootstrap_is_scipys() -> None:
    chance = np.random.default_rng(1)
    values = chance.choice([-1.0, 0.0, 1.0], size=120, p=[0.3, 0.6, 0.1])
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    plain, moved = resampled_means([(values[:, None, None], [str(i) for i in range(120)])])
    assert plain[0] == pytest.approx(values.mean())
    low, high = percentile_interval(moved[:, 0])
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_bootstrap_draws_whole_clusters() -> None:
    once = np.random.default_rng(3).choice([0.0, 1.0], size=40)
    five = np.repeat(once, 5)
    _, single = resampled_means([(once[:, None, None], [str(i) for i in range(40)])])
    _, whole = resampled_means([(five[:, None, None], [str(i // 5) for i in range(200)])])
    assert whole.std() == pytest.approx(single.std(), rel=0.05)


def test_pooled_over_two_runs_by_hand() -> None:
    one, two = [1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]
    pooled = pooled_change([[contrast(one)], [contrast(two)]])
    assert pooled is not None and pooled.runs == 2
    assert pooled.value == pytest.approx(0.375)
    # Samples: means .5 1 0 0 with +1 and -1 added: 6 values, mean .25, mean of squares 3.25 / 6.
    by_samples = (3.25 / 6 - 0.25**2) / 6
    by_runs = ((0.5 - 0.375) ** 2 + (0.25 - 0.375) ** 2) / 2
    freedom = (by_samples + by_runs) ** 2 / by_runs**2
    reach = stats.t.ppf(0.975, freedom) * math.sqrt(by_samples + by_runs)
    assert pooled.low == pytest.approx(0.25 - reach)
    assert pooled.high == pytest.approx(0.25 + reach)


def test_one_run_pooled_is_that_run() -> None:
    alone = [contrast([1.0, 0.0, -1.0], "a"), contrast([0.0, 1.0, 1.0], "b")]
    assert pooled_change([alone]) == average_change(alone)
    assert pooled_change([alone, []]) == average_change(alone)
    assert pooled_change([[], []]) is None


def test_runs_that_disagree_widen_the_interval() -> None:
    calm = pooled_change([[contrast([1.0, 0.0] * 50)]] * 3)
    torn = pooled_change([[contrast([float(x), 0.0] * 50)] for x in (0, 1, 2)])
    assert calm is not None and torn is not None
    assert torn.half_width > 3 * calm.half_width


def test_what_differs_between_orders_is_no_error_of_their_mean() -> None:
    """Two orders far apart, two seeds each that agree: the mean over these orders is sure."""
    low, high = [0.0] * 80 + [-1.0] * 20, [-1.0] * 80 + [0.0] * 20
    runs = [[contrast(one)] for one in (low, low, high, high)]
    fixed, loose = pooled_change(runs, [1, 1, 2, 2]), pooled_change(runs, [1, 2, 3, 4])
    assert fixed is not None and loose is not None
    assert fixed.value == loose.value == -0.5
    assert loose.half_width > 3 * fixed.half_width


def test_spread_around_the_mean_of_each_order_by_hand() -> None:
    # Order 1: 1, 3 around 2; order 2: 10, 12, 14 around 12; one run alone has no spread.
    spread, freedom = spread_of_runs([1, 3, 10, 12, 14, 99], [1, 1, 2, 2, 2, 3])
    assert (spread, freedom) == (pytest.approx((1 + 1 + 4 + 4) / 3), 3)
    assert spread_of_runs([1, 3], [1, 2]) == (pytest.approx(2.0), 1)


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.15])
def test_pooled_intervals_cover_the_truth(spread: float) -> None:
    """95 % of the intervals hold the mean change, runs and samples both drawn afresh."""
    chance, truth, hits, trials = np.random.default_rng(4), -0.2, 0, 400
    for _ in range(trials):
        hard = chance.random(100)  # a sample is easy or hard for all runs
        runs = []
        for _ in range(3):
            risk = np.clip(-truth + spread * chance.normal(), 0, 1)
            share = 0.5 * hard + 0.5 * chance.random(100)
            lost = share < np.quantile(0.5 * chance.random(9999) + 0.5 * chance.random(9999), risk)
            runs.append([contrast([-float(x) for x in lost])])
        found = pooled_change(runs)
        assert found is not None
        hits += found.low <= truth <= found.high
    assert hits / trials > 0.92


def test_pooled_intervals_cover_the_truth_where_questions_share_pictures() -> None:
    """Runs differ question by question; what a picture has in common stays in their mean."""
    chance, truth, hits, trials = np.random.default_rng(5), 0.1, 0, 200
    pictures, asked = 60, 8
    clusters = tuple(str(number // asked) for number in range(pictures * asked))
    for _ in range(trials):
        shared = np.repeat(0.2 * chance.normal(size=pictures), asked)
        runs = []
        for _ in range(6):
            values = truth + shared + 0.5 * chance.normal(size=pictures * asked)
            named = {str(place): float(x) for place, x in enumerate(values)}
            effect = design_effect(list(named.values()), clusters)
            moments = (Moments.of(named.values()),)
            runs.append([Contrast(float(values.mean()), moments, "t", effect, named, clusters)])
        found = pooled_change(runs, [1] * 6)
        assert found is not None
        hits += found.low <= truth <= found.high
    assert hits / trials > 0.92
