"""An optimiser in the machine's memory: the same numbers, and nothing of it on the device."""

from __future__ import annotations

import operator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from narrowtune import pico
from narrowtune.delta import read_delta
from narrowtune.errors import InputError
from narrowtune.experiment import parse_experiment
from narrowtune.runner import Options, Plan, plan, run
from narrowtune.runner.cost import Choice, Costs
from narrowtune.runner.fitting import ways_to_fit
from narrowtune.runner.folder import delta_path
from narrowtune.training.optimisers import optimiser_for
from narrowtune.training.weights import TrainedWeights

GPU = "cuda:0"
ON = {"offload_optimizer": True}


def on_a_gpu(dtype: torch.dtype, offloaded: bool) -> tuple[TrainedWeights, list[nn.Parameter]]:
    """Weights of a GPU that is not there, without data, each with a gradient."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def tensor() -> FakeTensor:
        return FakeTensor(mode, torch.empty(4, 8, dtype=dtype, device="meta"), torch.device(GPU))

    named = [(name, nn.Parameter(tensor())) for name in ("one", "other")]
    weights = TrainedWeights(named, offloaded)
    for _, parameter in named:
        parameter.grad = tensor()
    return weights, [parameter for _, parameter in named]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_weights_and_a_micro_batch_s_gradients_are_on_the_device(dtype: torch.dtype) -> None:
    weights, parameters = on_a_gpu(dtype, offloaded=True)
    optimiser = optimiser_for(weights, "adamw", 1e-3, 0.1)
    weights.collect()
    assert all(one.grad is None for one in parameters)
    gradients = [one.grad for one in weights.masters if one.grad is not None]
    assert len(gradients) == 2
    optimiser.step()
    moments = [one for kept in optimiser.state.values() for one in kept.values()]
    assert {one.device.type for one in (*weights.masters, *gradients, *moments)} == {"cpu"}
    assert {one.dtype for one in (*weights.masters, *gradients)} == {torch.float32}
    assert {str(one.device) for one in parameters} == {GPU}


def test_weights_without_offloading_are_their_own_masters() -> None:
    weights, parameters = on_a_gpu(torch.float32, offloaded=False)
    assert all(map(operator.is_, weights.masters, parameters))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_s_weights_come_out_the_same(dtype: torch.dtype) -> None:
    found = []
    for offloaded in (False, True):
        torch.manual_seed(0)
        layer = nn.Linear(64, 64, device="cuda", dtype=dtype)
        weights = TrainedWeights(list(layer.named_parameters()), offloaded)
        optimiser = optimiser_for(weights, "adamw", 1e-2, 0.1)
        for _ in range(3):
            layer(torch.ones(2, 64, device="cuda", dtype=dtype)).square().sum().backward()
            weights.collect()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            weights.write_back()
        found.append(layer.weight.detach())
    torch.testing.assert_close(found[0], found[1])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("offloaded")
    pico.write(folder / "data", "counting", "train", 24)
    return folder


def planned(home: Path, dtype: str = "float32", **more: object) -> Plan:
    given = {
        "model": {"id": "pico-qwen", "dtype": dtype},
        "stages": [{"name": "counting", "train": "data/counting/train.jsonl"}],
        "arms": [{"name": "arm", "recipe": "language"}],
        "training": {"batch_size": 8, "micro_batch_size": 4, "learning_rate": 1e-3} | more,
    }
    return plan(parse_experiment(given), home)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_a_cpu_no_bit_changes(home: Path, tmp_path: Path, dtype: str) -> None:
    quiet = Options(device="cpu", save_models=False)
    run(planned(home, dtype), tmp_path / "plain", options=quiet)
    record = run(planned(home, dtype, **ON), tmp_path / "away", options=quiet)
    plain, away = (
        read_delta(delta_path(tmp_path / name, "arm", "counting")).tensors
        for name in ("plain", "away")
    )
    assert all(torch.equal(plain[name], away[name]) for name in plain)
    assert "in the machine's memory" in " ".join(record.plan["arms"][0]["notes"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plan_leaves_it_out_on_a_gpu(home: Path, dtype: torch.dtype) -> None:
    made = planned(home, **ON)
    costs, arm = Costs(made, "h100-80g"), made.arms[0]
    plain = Costs(planned(home), "h100-80g").of(arm, Choice(dtype))
    away = costs.of(arm, Choice(dtype))
    assert not away.missing
    assert not {"masters", "optimiser"} & set(away.parts)
    assert away.peak < plain.peak
    assert away.parts["gradients"] < plain.parts["gradients"]
    assert away.seconds is not None


def test_on_a_cpu_it_is_predicted_like_any_other(home: Path) -> None:
    made = planned(home)
    costs, arm = Costs(made), made.arms[0]
    assert costs.of(arm, Choice(torch.float32, offload_optimizer=True)).parts["optimiser"] > 0
    ways = ways_to_fit(costs, arm)
    assert not any("offload_optimizer" in way.words for way in ways)


def test_it_is_named_where_an_arm_does_not_fit(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = planned(home, batch_size=1, micro_batch_size=1)
    costs, arm = Costs(made, "t4-16g"), made.arms[0]
    monkeypatch.setattr(costs, "fits", lambda cost: "optimiser" not in cost.parts)
    assert "training.offload_optimizer: true" in [way.words for way in ways_to_fit(costs, arm)]


def test_with_moments_in_8_bits_it_is_refused(home: Path) -> None:
    with pytest.raises(InputError, match="give one of the two"):
        planned(home, optim="adamw_8bit", **ON)
