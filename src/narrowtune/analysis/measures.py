"""The ways in which a model's readings say how far its output distribution has moved."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from narrowtune.analysis.matrix import BASE_POINT
from narrowtune.analysis.replicates import Runs
from narrowtune.analysis.samples import Point
from narrowtune.record import Record

Taken = Literal["value", "less than one", "change"]
Key = tuple[str, str, str, str]
"""Of a reading: its probe, task, place and part."""

ReadingTable = Mapping[Point, Mapping[Key, float]]
OWN = "own answers"
"""The class of the answers that the model's latest stage taught."""

ANSWERS = "answer:"
"""How the name of a skill's answer class begins."""

MASS, MOVED, NUMBER_BIAS = "mass", "moved", "number_bias"
_WORDS = {
    "kl": "KL",
    "reverse_kl": "reverse KL",
    "top1": "top-1 disagreement",
    "top10": "top-10 disagreement",
    "entropy": "change of entropy",
    NUMBER_BIAS: "change of number bias",
    "number_bias_summed": "change of number bias, summed",
    "number_bias_peak": "change of number bias, peak",
}


@dataclass(frozen=True)
class Measure:
    """One number for how far a model has drifted.

    Attributes:
        probe: The reading it rests on.
        at: `all` of an answer's tokens, or its `first`.
        part: The class of a mass; `own answers` is that of the latest stage's training answers.
        taken: The reading's `value`; how much it is `less than one`; its `change` from base.
    """

    probe: str
    at: str = "all"
    part: str = ""
    taken: Taken = "value"

    @property
    def label(self) -> str:
        """What it is called in a report."""
        words = _WORDS.get(self.probe, f"change of mass on {self.part.replace('_', '/')}")
        return f"{words}, first token" if self.at == "first" else words

    @property
    def unit(self) -> Literal["nats", "fraction"]:
        """What its values are counted in."""
        return "nats" if self.probe in ("kl", "reverse_kl", "entropy") else "fraction"

    @property
    def on_own_texts(self) -> bool:
        """Whether it is read on what the model writes itself, which belongs to no held-out task."""
        return self.probe.startswith(NUMBER_BIAS)


KL = Measure("kl")
TOP1 = Measure("top1", taken="less than one")
NUMBERS = Measure(MASS, part="number", taken="change")
OWN_ANSWERS = Measure(MASS, part=OWN, taken="change")
BIAS = Measure(NUMBER_BIAS, taken="change")
MEASURES = (
    KL,
    Measure("kl", "first"),
    Measure("reverse_kl"),
    Measure("reverse_kl", "first"),
    TOP1,
    Measure("top1", "first", taken="less than one"),
    Measure("top10", taken="less than one"),
    Measure("entropy", taken="change"),
    *(Measure(MASS, "all", part, "change") for part in ("number", "letter", "yes_no", "time", OWN)),
    *(Measure(f"{NUMBER_BIAS}{kind}", taken="change") for kind in ("", "_summed", "_peak")),
)


def taught_points(runs: Runs) -> list[Point]:
    """Every arm after every stage, in the experiment's order."""
    experiment = runs[0].record.experiment if runs else None
    arms, stages = (experiment.arms, experiment.stages) if experiment else ((), ())
    return [(arm.name, stage.name) for arm in arms for stage in stages]


def after_stages(record: Record) -> Iterator[dict[str, Any]]:
    """Readings of the base and of models after their stages: not those taken during training."""
    return (row for row in record.readings if row.get("step") is None)


def reading_table(record: Record) -> ReadingTable:
    """What was read of each model, as far as measures need it; the later row counts."""
    known = {measure.probe for measure in MEASURES}
    table: dict[Point, dict[Key, float]] = defaultdict(dict)
    for row in after_stages(record):
        if row["probe"] in known and row["value"] is not None:
            key = (row["probe"], row["task"], row["at"], row["part"])
            table[row["arm"], row["stage"]][key] = row["value"]
    return dict(table)


def taken(table: ReadingTable, measure: Measure, point: Point, task: str) -> float | None:
    """A model's drift on one task's texts; None where it, or the base, was not read."""
    part = f"{ANSWERS}{point[1]}" if measure.part == OWN else measure.part
    key = (measure.probe, task, measure.at, part)
    after, before = (table.get(one, {}).get(key) for one in (point, BASE_POINT))
    if after is None or measure.taken == "value":
        return after
    if measure.taken == "less than one":
        return 1.0 - after
    return None if before is None else after - before


def mean_taken(table: ReadingTable, measure: Measure, point: Point) -> float | None:
    """A model's drift, the mean over the tasks on whose texts it was read."""
    texts = {key[1] for key in table.get(point, {}) if key[0] == measure.probe}
    read = [taken(table, measure, point, text) for text in sorted(texts)]
    found = [value for value in read if value is not None]
    return fmean(found) if found else None
