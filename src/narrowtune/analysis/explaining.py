"""What a loss is made of: what comes back when the output is corrected, and what does not.

With B and T the scores of base and tuned model on the same rows, and B', T' the same under a
correction: lost = B - T; not recovered = B' - T', what the tuned model still lacks when both are
corrected alike; recovered = lost - not recovered. All three are means of per-sample differences.

Each of the four scores holds some guessing: what the same answers would score if they were shuffled
over the questions. The same three numbers with that taken off every score are those above guessing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from statistics import fmean

from narrowtune.analysis.estimate import Contrast, Estimate
from narrowtune.analysis.matrix import contrast_of
from narrowtune.analysis.pooling import pooled_change
from narrowtune.analysis.samples import Sample
from narrowtune.analysis.shares import share_interval

Rows = Mapping[str, Sample]
DRAWS = 1000
"""For the interval of a share; a report holds hundreds of them."""


@dataclass(frozen=True)
class Quartet:
    """One task's answers in one run: base and tuned model, plain and corrected.

    Attributes:
        task: Its name.
        base: The base's answers.
        base_corrected: The same under the correction.
        tuned: The tuned model's, after each of the stages that are averaged over.
        tuned_corrected: The same under the correction, stage by stage.
        above: Whether guessing is taken off every score.
    """

    task: str
    base: Rows
    base_corrected: Rows
    tuned: Sequence[Rows]
    tuned_corrected: Sequence[Rows]
    above: bool = False

    @property
    def guesses(self) -> Guesses | None:
        """What shuffled answers score; None where that was not recorded."""
        groups = ([self.base], [self.base_corrected], self.tuned, self.tuned_corrected)
        found = [[one.guess for rows in group for one in rows.values()] for group in groups]
        known = [[guess for guess in one if guess is not None] for one in found]
        return None if found != known else Guesses(*map(fmean, known))

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
                self._part(plain),
                self._part(self.base_corrected[name]),
                fmean(self._part(rows[name]) for rows in self.tuned),
                fmean(self._part(rows[name]) for rows in self.tuned_corrected),
            )
            for name, plain in self.base.items()
        }
        return contrast_of(self.task, differences, [row.cluster for row in self.base.values()])

    def _part(self, sample: Sample) -> float:
        return sample.above_guessing if self.above else sample.part


@dataclass(frozen=True)
class Guesses:
    """The scores that a quartet's answers get when they are shuffled over the questions."""

    base: float
    base_corrected: float
    tuned: float
    tuned_corrected: float


@dataclass(frozen=True)
class Explained:
    """What became of a loss under one correction.

    Attributes:
        correction: Which.
        lost: Base less tuned, on the scored rows.
        recovered: What of it the correction brings back: a shift of the output.
        not_recovered: What it doesn't: ability, or a shift that this correction can't undo.
        base_change: What the correction does to the untouched base.
        share_interval: 95 %, of `share`; None where there is none.
        guesses: What the same answers score when shuffled over the questions, mean over tasks and
            runs; None where that was not recorded.
        above: The same as this with the guesses taken off every score; None without them.
    """

    correction: str
    lost: Estimate
    recovered: Estimate
    not_recovered: Estimate
    base_change: Estimate
    share_interval: tuple[float, float] | None = None
    guesses: Guesses | None = None
    above: Explained | None = None

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
    whole = _explained(correction, runs, orders)
    known = [[one.guesses for one in run] for run in runs]
    guesses = [one for run in known for one in run if one is not None]
    if whole is None or len(guesses) < sum(map(len, runs)):
        return whole
    above = [[replace(one, above=True) for one in run] for run in runs]
    return replace(whole, guesses=_mean(guesses), above=_explained(correction, above, orders))


def _explained(
    correction: str, runs: Sequence[Sequence[Quartet]], orders: Sequence[int] | None
) -> Explained | None:
    names = ("lost", "recovered", "not_recovered", "base_change")
    changes = {name: [[getattr(one, name) for one in run] for run in runs] for name in names}
    lost, recovered, rest, base = (pooled_change(changes[name], orders) for name in names)
    if lost is None or recovered is None or rest is None or base is None:
        return None
    found = Explained(correction, lost, recovered, rest, base)
    if found.share is None:
        return found
    ordered = orders or [1] * len(runs)
    interval = share_interval(changes["recovered"], changes["lost"], ordered, DRAWS)
    return replace(found, share_interval=interval)


def _mean(guesses: Sequence[Guesses]) -> Guesses:
    """Every task has as many runs, so each weighs the same."""
    return Guesses(*(fmean(column) for column in zip(*map(astuple, guesses), strict=True)))
