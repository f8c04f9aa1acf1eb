"""What a probe has read, as rows: a mean over samples with its error, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

from narrowtune.probes.classes import TokenClass
from narrowtune.probes.distances import COLUMNS, Distances
from narrowtune.probes.number_bias import Caption
from narrowtune.probes.reference import Positions

Where = Literal["first", "all"]
UNITS: Mapping[str, str] = dict.fromkeys(("kl", "reverse_kl", "entropy", "answer_loss"), "nats")
"""All others are fractions."""

MOVED = 10
"""So many tokens that gained most and lost most are told."""


@dataclass(frozen=True)
class Reading:
    """One number of one model on one set of texts.

    Attributes:
        probe: What was read: `kl`, `reverse_kl`, `top1`, `top10`, `entropy`, `answer_loss`, `mass`,
            `moved`, `number_bias`, `number_bias_summed`, `number_bias_peak`, `branch_shift`,
            `branch_shift_normed`, `class_push`, `stream_length`.
        task: On which texts.
        at: `first`: the answers' first tokens; `all`: all of their tokens, the end included, each
            answer weighing the same.
        part: The class of a mass, the token of what moved, the branch of a shift (`attention.3`),
            a branch and a class of a push (`mlp.3:number`); else empty.
        value: None where it is not available, `reason` saying why.
        unit: `nats`, `logits`, `ratio` or `fraction`.
        n: Samples.
        stderr: Standard error of the mean over them; None where it is no such mean.
    """

    probe: str
    task: str
    at: Where
    part: str = ""
    value: float | None = None
    unit: str = "fraction"
    n: int = 0
    stderr: float | None = None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As it lands in the record."""
        return asdict(self)


def reference_readings(
    task: str, positions: Positions, found: Distances, classes: Sequence[TokenClass]
) -> Iterator[Reading]:
    """Every distance and every class's mass, at the first answer tokens and at all of them."""
    places: tuple[Where, ...] = ("first", "all")
    for at in places:
        for name in COLUMNS:
            yield averaged(
                Reading(name, task, at, unit=UNITS.get(name, "fraction")),
                positions,
                getattr(found, name),
            )
        for one in classes:
            empty = Reading("mass", task, at, one.name, reason=one.reason)
            yield averaged(empty, positions, found.masses[one.name]) if one.ids else empty


def moved_readings(task: str, moved: Tensor, names: Sequence[str]) -> Iterator[Reading]:
    """The tokens whose mean probability grew most and fell most."""
    gained, lost = moved.topk(MOVED), (-moved).topk(MOVED)
    for token, change in zip(gained.indices.tolist(), gained.values.tolist(), strict=True):
        if change > 0:
            yield Reading("moved", task, "all", names[token], change)
    for token, change in zip(lost.indices.tolist(), lost.values.tolist(), strict=True):
        if change > 0:
            yield Reading("moved", task, "all", names[token], -change)


def caption_readings(task: str, captions: Sequence[Caption]) -> Iterator[Reading]:
    """The number-token bias and its variants."""
    for name, values in (
        ("number_bias", [one.bias for one in captions]),
        ("number_bias_summed", [one.summed for one in captions]),
        ("number_bias_peak", [one.peak for one in captions]),
    ):
        yield _with(Reading(name, task, "all"), values)


def sample_means(positions: Positions, column: Tensor, at: Where) -> Tensor:
    """Each sample's mean over its positions, or its first one: [samples], float64."""
    counted = positions.first if at == "first" else positions.first | True
    samples, values = positions.sample[counted], column[counted].double()
    sums = values.new_zeros(int(positions.sample.max()) + 1).index_add(0, samples, values)
    return sums / samples.bincount(minlength=len(sums))


def averaged(reading: Reading, positions: Positions, column: Tensor) -> Reading:
    """The reading with its value: the mean over samples of the mean over each one's positions."""
    return _with(reading, sample_means(positions, column, reading.at).tolist())


def _with(reading: Reading, values: Sequence[float]) -> Reading:
    mean = math.fsum(values) / len(values)
    squares = math.fsum((value - mean) ** 2 for value in values)
    error = math.sqrt(squares / (len(values) - 1) / len(values)) if len(values) > 1 else None
    return Reading(**asdict(reading) | {"value": mean, "n": len(values), "stderr": error})
