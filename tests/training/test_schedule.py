"""Steps and learning rates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowtune.training import learning_rate_factor, planned_steps


@given(
    steps=st.integers(1, 500),
    warmup=st.floats(0, 1),
    schedule=st.sampled_from(["cosine", "linear", "constant"]),
)
def test_the_rate_rises_then_never_rises_again(steps: int, warmup: float, schedule: str) -> None:
    rates = [learning_rate_factor(step, steps, schedule, warmup) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_cosine_values() -> None:
    rates = [learning_rate_factor(step, 100, "cosine", 0.0) for step in (0, 50, 99)]
    assert rates == pytest.approx([1.0, 0.5, 0.000247], abs=1e-6)


@pytest.mark.parametrize(
    ("samples", "batch", "epochs", "steps", "planned"),
    [
        (100, 32, 1.0, None, 4),
        (100, 32, 2.0, None, 8),
        (10, 32, 3.0, None, 3),
        (3, 32, 0.1, None, 1),
        (9, 2, 1, 50, 50),
    ],
)
def test_planned_steps(
    samples: int, batch: int, epochs: float, steps: int | None, planned: int
) -> None:
    assert planned_steps(samples, batch, epochs, steps) == planned
