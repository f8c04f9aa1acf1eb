"""Records small enough to check by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

from narrowtune.analysis import Sample, Samples
from narrowtune.experiment import ArmSpec, Experiment, ModelSpec, StageSpec, TaskSpec
from narrowtune.record import BASE, Cost, Record, Score

Values = Mapping[tuple[str, str], Mapping[str, float]]
SIZES = {"wide": 1000, "narrow": 100, "tiny": 10}


def record_of(values: Values, *, n: int = 100, held_out: Iterable[str] = ("h1", "h2"), **more: Any):
    """A record of stages s1, s2 from {(arm, stage): {task: value}}, scores being 0 or 1."""
    held = tuple(held_out)
    scores = [
        Score(
            arm=arm, stage=stage, task=task, role="held_out" if task in held else "target",
            metric="exact", value=value, n=n, stderr=(value * (1 - value) / (n - 1)) ** 0.5,
            task_version="1",
        )
        for (arm, stage), tasks in values.items()
        for task, value in tasks.items()
    ]  # fmt: skip
    points = [point for point in values if point[0] != BASE]
    arms = list(dict.fromkeys(arm for arm, _ in points)) or ["wide"]
    return Record(
        **{"status": "complete", "digest": "d", "scores": tuple(scores)}
        | {
            "experiment": Experiment(
                model=ModelSpec(id="m"),
                stages=tuple(StageSpec(name=s, train="t", test="t") for s in ("s1", "s2")),
                held_out=tuple(TaskSpec(name=task, test="t") for task in held),
                arms=tuple(ArmSpec(name=arm, recipe="full") for arm in arms),
            ),
            "cost": tuple(cost(arm, stage) for arm, stage in points),
        }
        | more
    )


def cost(arm: str, stage: str) -> Cost:
    """One stage's cost with the arm's number of trained parameters."""
    return Cost(
        arm=arm, stage=stage, seconds=2.0, steps=5, samples=50, tokens=500, supervised_tokens=50,
        samples_per_second=25.0, peak_bytes=1000, trained_numel=SIZES.get(arm, 500),
        total_numel=2000,
    )  # fmt: skip


def samples_of(rows: Mapping[tuple[str, str, str], list[float]]) -> Samples:
    """Answers with the given scores; ids are 0, 1, 2, ..."""
    return Samples(
        {
            key: {str(i): Sample(str(i), f"said {x}", ("right",), x) for i, x in enumerate(scores)}
            for key, scores in rows.items()
        }
    )


@pytest.fixture
def make_record() -> Callable[..., Record]:
    """`record_of`, for the tests."""
    return record_of


@pytest.fixture
def make_samples() -> Callable[..., Samples]:
    """`samples_of`, for the tests."""
    return samples_of


@pytest.fixture
def by_hand() -> Record:
    """Two arms x two stages; every quantity of it is easy to work out on paper."""
    return record_of(
        {
            ("base", "base"): {"s1": 0.10, "s2": 0.20, "h1": 0.80, "h2": 0.60},
            ("wide", "s1"): {"s1": 0.90, "s2": 0.10, "h1": 0.30, "h2": 0.40},
            ("wide", "s2"): {"s1": 0.50, "s2": 0.80, "h1": 0.60, "h2": 0.50},
            ("narrow", "s1"): {"s1": 0.85, "s2": 0.20, "h1": 0.80, "h2": 0.59},
            ("narrow", "s2"): {"s1": 0.80, "s2": 0.75, "h1": 0.79, "h2": 0.60},
        }
    )
