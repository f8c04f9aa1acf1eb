"""The controller of a penalty, and the search for the largest share, on curves known in full."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from narrowtune.delta import Line, largest_share
from narrowtune.training import Gate, Measured, Penalty

AIM = 0.2


def penalty() -> Penalty:
    """Steers one number whose drift is its square."""
    gate = Gate(lambda model: Measured(0.0, 1, None, True), every=100, steps=100)
    return Penalty(gate, lambda number, model: drift(model).item(), lambda _, m: drift(m), AIM)


def drift(model: nn.Module) -> torch.Tensor:
    (weight,) = model.parameters()
    return weight.square().sum()


def descend(steps: int, far: float, noise: float = 0.0) -> list[float]:
    """Gradient descent on (w - far)^2 under the penalty; the drift after each step."""
    torch.manual_seed(0)
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    control = penalty()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    found = []
    for number in range(steps):
        loss = (model.weight - far).square().sum() + noise * torch.randn(()) * model.weight.sum()
        pull = control.pull(number, model)
        (loss if pull is None else loss + pull).backward()
        optimiser.step()
        optimiser.zero_grad()
        found.append(drift(model).item())
    return found


def test_a_penalty_settles_at_its_aim() -> None:
    """Without it the minimum has a drift of 4; with it the best within the aim has the aim's."""
    found = descend(200, far=2.0)
    assert max(found) > AIM
    assert found[-1] == pytest.approx(AIM, rel=0.05)


def test_noise_does_not_unsettle_it() -> None:
    found = descend(300, far=2.0, noise=1.0)
    assert sum(found[-50:]) / 50 == pytest.approx(AIM, rel=0.25)


def test_a_drift_below_the_aim_is_left_alone() -> None:
    assert descend(200, far=0.4)[-1] == pytest.approx(0.16, rel=0.01)


def test_a_penalty_goes_on_as_it_was() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    one, other = penalty(), penalty()
    for number in range(5):
        one.pull(number, model)
    other.resume(one.state())
    assert other.weight == one.weight > 0
    assert other.pull(5, model) == one.pull(5, model)


def test_the_largest_share_on_a_curve_that_falls_again() -> None:
    looked = []

    def fits(alpha: float) -> bool:
        looked.append(alpha)
        return not (0.1 < alpha < 0.4 or alpha > 0.62)

    assert 0.62 - 0.25 / 64 <= largest_share(fits) <= 0.62
    assert {0.0, 1.0} <= set(looked)
    assert len(looked) == 11


def test_shares_at_the_ends() -> None:
    assert largest_share(lambda alpha: True) == 1.0
    assert largest_share(lambda alpha: False) == 0.0
    assert largest_share(lambda alpha: alpha == 0.0) == 0.0
    assert largest_share(lambda alpha: not math.isclose(alpha, 1.0)) == pytest.approx(1, abs=0.004)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_line_has_its_ends_bit_by_bit_and_rounds_once(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    start, end = torch.randn(64).to(dtype), torch.randn(64).to(dtype)
    parameter = nn.Parameter(torch.zeros(64, dtype=dtype))
    line = Line({"w": start}, {"w": end})
    for alpha, expected in ((0.0, start), (1.0, end)):
        line.put([("w", parameter)], alpha)
        assert torch.equal(parameter, expected)
    line.put([("w", parameter)], 0.3)
    mixed = start.float() + 0.3 * (end.float() - start.float())
    assert torch.equal(parameter, mixed.to(dtype))
