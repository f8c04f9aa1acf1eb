"""One estimate out of several runs of the same experiment, in other orders and from other seeds.

Two things make the mean over runs uncertain: which test samples were drawn, the same for all runs,
and how a run happened to go. Their variances are added (samples and runs are crossed; what they
have in common is counted twice, which errs on the wide side, as the crossed bootstrap of Owen 2007,
"The pigeonhole bootstrap", does) and the interval is a t interval, its degrees of freedom by
Welch & Satterthwaite: runs are few. Seeds are draws from all seeds. Orders are the ones tried: what
differs between them is no error of their mean, so runs vary around the mean of their own order.
Where no order has two seeds, the spread between orders stands in for that between seeds.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, variance

from narrowtune.analysis.clusters import design_effect
from narrowtune.analysis.estimate import Contrast, Estimate, Moments, Pairing, average_change


def pooled_change(
    runs: Sequence[Sequence[Contrast]], orders: Sequence[int] | None = None
) -> Estimate | None:
    """The mean change over tasks and runs; runs without contrasts are left out.

    Args:
        runs: For each run, one contrast per task; as many in every run.
        orders: The order that each run went in; all the same if not given.
    """
    groups = [order for order, run in zip(orders or [1] * len(runs), runs, strict=True) if run]
    found = [run for run in runs if run]
    if len(found) < 2:
        return average_change(found[0]) if found else None
    values = [fmean(one.value for one in run) for run in found]
    centre, by_samples = _over_samples(found)
    spread, freedom = spread_of_runs(values, groups)
    by_runs = spread / len(found)
    reach = _quantile(by_samples, by_runs, freedom) * math.sqrt(by_samples + by_runs)
    value, tasks = fmean(values), _by_task(found)
    low, high = max(centre - reach, -1.0), min(centre + reach, 1.0)
    return Estimate(
        value,
        min(low, value),
        max(high, value),
        n=int(sum(max(one.moments[0].n for one in group) for group in tasks.values())),
        tasks=len(tasks),
        pairing=_pairing(found),
        runs=len(found),
    )


def spread_of_runs(values: Sequence[float], orders: Sequence[int]) -> tuple[float, int]:
    """Variance of a run around its order's mean, pooled over orders, and its degrees of freedom.

    Around the mean of all runs where no order has two.
    """
    groups: dict[int, list[float]] = defaultdict(list)
    for order, value in zip(orders, values, strict=True):
        groups[order].append(value)
    freedom = len(values) - len(groups)
    if not freedom:
        return variance(values), len(values) - 1
    squares = (sum((x - fmean(group)) ** 2 for x in group) for group in groups.values())
    return sum(squares) / freedom, freedom


def _over_samples(runs: Sequence[Sequence[Contrast]]) -> tuple[float, float]:
    """Centre and squared standard error that the draw of test samples brings to the mean."""
    steps, centre, squared = len(runs[0]), 0.0, 0.0
    for group in _by_task(runs).values():
        mean, error = _task_over_samples(group, 1 / steps)
        share = len(group) / len(runs) / steps
        centre += share * mean
        squared += share**2 * error
    return centre, squared


def _task_over_samples(group: Sequence[Contrast], weight: float) -> tuple[float, float]:
    """One task's: of each sample's mean difference over the runs, where they are all at hand."""
    ids = group[0].differences.keys()
    if ids and all(one.differences.keys() == ids for one in group):
        columns = [[one.differences[name] for name in ids] for one in group]
        means = [fmean(row) for row in zip(*columns, strict=True)]
        # Of the means, not of a single run: averaging over runs takes out what runs differ in, and
        # what a cluster has in common stays.
        effect = design_effect(means, group[0].clusters or tuple(ids))
        whole = replace(group[0], moments=(Moments.of(means),), design_effect=effect)
        return whole.adjusted(weight)
    parts = [one.adjusted(weight) for one in group]
    # The same samples under every run: averaging over runs takes nothing off their error.
    return fmean(mean for mean, _ in parts), fmean(error for _, error in parts)


def _by_task(runs: Sequence[Sequence[Contrast]]) -> dict[str, list[Contrast]]:
    tasks: dict[str, list[Contrast]] = defaultdict(list)
    for run in runs:
        for one in run:
            tasks[one.task].append(one)
    return tasks


def _quantile(by_samples: float, by_runs: float, runs_freedom: int) -> float:
    """The 97.5 % quantile of t; the samples' part has many degrees of freedom, the runs' few."""
    from scipy.stats import norm, t

    if by_runs == 0.0:
        return float(norm.ppf(0.975))
    freedom = (by_samples + by_runs) ** 2 / (by_runs**2 / runs_freedom)
    return float(t.ppf(0.975, freedom))


def _pairing(runs: Sequence[Sequence[Contrast]]) -> Pairing:
    kinds = {one.pairing for run in runs for one in run}
    return kinds.pop() if len(kinds) == 1 else "mixed"
