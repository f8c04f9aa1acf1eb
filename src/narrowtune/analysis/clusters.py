"""Samples that share an image or a passage: fewer independent facts than there are questions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence


def design_effect(values: Sequence[float], clusters: Sequence[str]) -> float:
    """How many times the variance of a mean grows because its samples come in clusters.

    The cluster-robust variance of the mean, G / (G - 1) x sum over clusters of (sum of residuals)^2
    / n^2 (Liang & Zeger 1986 for a mean; Miller, arXiv 2411.00640, section 2.2, for evaluations),
    over that of independent samples, sum of squared residuals / (n (n - 1)). Never below 1: with
    few clusters the ratio is noisy, and an interval should not shrink by chance. Where the values
    do not differ at all, it is what full agreement within clusters would give.

    Args:
        values: One number per sample.
        clusters: The cluster of each.
    """
    n, members = len(values), defaultdict(list)
    if len(set(clusters)) == n:
        return 1.0
    mean = math.fsum(values) / n
    for value, cluster in zip(values, clusters, strict=True):
        members[cluster].append(value - mean)
    groups = len(members)
    full = math.fsum(len(one) ** 2 for one in members.values()) / n
    alone = math.fsum(x * x for one in members.values() for x in one) / (n * (n - 1))
    if groups < 2 or alone == 0.0:
        return full
    together = math.fsum(math.fsum(one) ** 2 for one in members.values()) / n**2
    return max(1.0, groups / (groups - 1) * together / alone)
