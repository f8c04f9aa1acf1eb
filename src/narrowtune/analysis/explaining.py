"""What a loss is made of: what comes back when the output is corrected, and what does not.

With B and T the scores of base and tuned model on the same rows, and B', T' the same under a
correction: lost = B - T; not recovered = B' - T', what the tuned model still lacks when both are
corrected alike; recovered = lost - not recovered. All three are means of per-sample differences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from narrowtune.analysis.estimate import Contrast, Estimate
from narrowtune.analysis.matrix import contrast_of
from narrowtune.analysis.pooling import pooled_change
from narrowtune.analysis.samples import Sample

Rows = Mapping[str, Sample]


@dataclass(frozen=True)
class Quartet:
    """One task's answers in one run: base and tuned model, plain and corrected.

    Attributes:
        task: Its name.
        base: The base's answers.
        base_corrected: The same under the correction.
        tuned: The tuned model's, after each of the stages that are averaged over.
        tuned_corrected: The same under the correction, stage by stage.
    """

    task: str
    base: Rows
    base_corrected: Rows
    tuned: Sequence[Rows]
    tuned_corrected: Sequence[Rows]

    @property
    def lost(self) -> Contrast:
        """B - T."""
        return self._mean(lambda b, _c, t, _d: b - t)

    @property
    def recovered(self) -> Contrast:
        """(B - T) - (B' - T')."""
        return self._mean(lambda b, c, t, d: (b - t) - (c - d))

    @property
    def not_recovered(self) -> Contrast:
        """B' - T'."""
        return self._mean(lambda _b, c, _t, d: c - d)

    @property
    def base_change(self) -> Contrast:
        """B' - B."""
        return self._mean(lambda b, c, _t, _d: c - b)

    def _mean(self, of: Callable[[float, float, float, float], float]) -> Contrast:
        differences = {
            name: of(
                plain.part,
                self.base_corrected[name].part,
                fmean(rows[name].part for rows in self.tuned),
                fmean(rows[name].part for rows in self.tuned_corrected),
            )
            for name, plain in self.base.items()
        }
        return contrast_of(self.task, differences, [row.cluster for row in self.base.values()])


@dataclass(frozen=True)
class Explained:
    """What became of a loss under one correction.

    Attributes:
        correction: Which.
        lost: Base less tuned, on the scored rows.
        recovered: What of it the correction brings back: a shift of the output.
        not_recovered: What it doesn't: ability, or a shift that this correction can't undo.
        base_change: What the correction does to the untouched base.
    """

    correction: str
    lost: Estimate
    recovered: Estimate
    not_recovered: Estimate
    base_change: Estimate

    @property
    def share(self) -> float | None:
        """`recovered` over `lost`; None where the loss is within the noise."""
        return self.recovered.value / self.lost.value if self.lost.verdict == "better" else None

    @property
    def harms_base(self) -> bool:
        """Whether the base does worse with it: then little is left that tuning could lose."""
        return self.base_change.verdict == "worse"


def explained(
    correction: str, runs: Sequence[Sequence[Quartet]], orders: Sequence[int] | None = None
) -> Explained | None:
    """The loss of one model under one correction, over tasks and runs.

    Args:
        correction: Its name.
        runs: For each run the tasks' answers, the same tasks in each.
        orders: The order that each run went in.
    """
    pooled = partial(_pooled, runs, orders)
    found = [pooled(name) for name in ("lost", "recovered", "not_recovered", "base_change")]
    lost, recovered, rest, base = found
    if lost is None or recovered is None or rest is None or base is None:
        return None
    return Explained(correction, lost, recovered, rest, base)


def _pooled(
    runs: Sequence[Sequence[Quartet]], orders: Sequence[int] | None, name: str
) -> Estimate | None:
    return pooled_change([[getattr(one, name) for one in run] for run in runs], orders)
