"""Two models on the same samples, tested: who gained, who lost, and could it be chance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from narrowtune.analysis.estimate import Estimate
from narrowtune.analysis.matrix import (
    BASE_POINT,
    agreeing_pairs,
    change_over,
    held_out_names,
    score_table,
    stage_names,
)
from narrowtune.analysis.samples import Point, Samples
from narrowtune.record import Record


@dataclass(frozen=True)
class PairedTest:
    """One task's change from base, by three roads that should agree.

    Attributes:
        task: The task.
        change: With the interval that the whole report goes by.
        bootstrap: The percentile interval of a bootstrap over samples, by clusters.
        lost: Samples whose score fell.
        gained: Samples whose score rose.
        mcnemar: Exact two-sided p of McNemar's test (1947) on the two counts; of the sign test,
            which it is, where scores are graded. It takes every sample for independent.
        holm: The same after Holm's correction (1979) over the tasks tested together.
    """

    task: str
    change: Estimate
    bootstrap: tuple[float, float]
    lost: int
    gained: int
    mcnemar: float
    holm: float


def mcnemar(lost: int, gained: int) -> float:
    """Exact two-sided p that gains and losses are equally likely (McNemar 1947, binomial form)."""
    from scipy.stats import binomtest

    return float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979): p-values that hold for all tests together."""
    adjusted, floor = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda place: ps[place])):
        floor = max(floor, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = floor
    return adjusted


def paired_tests(
    record: Record, samples: Samples, point: Point, tasks: Iterable[str] | None = None
) -> list[PairedTest]:
    """Every task's test of the model `point` against base, those without samples left out."""
    names = list(tasks) if tasks is not None else [*stage_names(record), *held_out_names(record)]
    found = [one for one in (_test(record, samples, point, task) for task in names) if one]
    for one, p in zip(list(found), holm([one.mcnemar for one in found]), strict=True):
        found[found.index(one)] = PairedTest(**vars(one) | {"holm": p})
    return found


def _test(record: Record, samples: Samples, point: Point, task: str) -> PairedTest | None:
    pairs = agreeing_pairs(record, samples, task, point)
    change = change_over(record, samples, [(task, BASE_POINT, point)])
    if pairs is None or change is None:
        return None
    sign = 1.0 if score_table(record)[*point, task].higher_is_better else -1.0
    moved = [sign * (after.part - before.part) for before, after in pairs]
    clusters = [before.cluster or f"#{i}" for i, (before, _) in enumerate(pairs)]
    # Contributions to a corpus score all move when one answer does; scores move alone.
    turned = [sign * (after.score - before.score) for before, after in pairs]
    lost, gained = sum(x < 0 for x in turned), sum(x > 0 for x in turned)
    p = mcnemar(lost, gained)
    return PairedTest(task, change, _bootstrap(moved, clusters), lost, gained, p, p)


def _bootstrap(values: Sequence[float], clusters: Sequence[str]) -> tuple[float, float]:
    import numpy as np

    from narrowtune.analysis.resampling import percentile_interval, resampled_means

    array = np.asarray(values, dtype=float)[:, None, None]
    _, moved = resampled_means([(array, clusters)])
    return percentile_interval(moved[:, 0])
