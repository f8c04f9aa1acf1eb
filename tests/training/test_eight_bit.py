"""AdamW with moments in 8 bits: a quarter of the bytes, resumed to the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from narrowtune import pico
from narrowtune.delta import read_delta
from narrowtune.errors import InputError
from narrowtune.experiment import parse_experiment
from narrowtune.record import Record
from narrowtune.runner import Observer, Options, Plan, plan, run
from narrowtune.runner.cost import Choice, Costs
from narrowtune.runner.fitting import ways_to_fit
from narrowtune.runner.folder import delta_path
from narrowtune.training import Interrupted, StepResult
from narrowtune.training.optimisers import EIGHT_BIT, optimiser_for, state_bytes
from narrowtune.training.weights import TrainedWeights

pytest.importorskip("bitsandbytes")

QUIET = Options(device="cpu", save_models=False)
ON = {"optim": EIGHT_BIT}


def trained(dtype: torch.dtype = torch.float32) -> TrainedWeights:
    torch.manual_seed(0)
    shapes = {"wide": (96, 64), "odd": (70, 61), "small": (8, 8), "bias": (64,)}
    named = [(name, nn.Parameter(torch.randn(shape).to(dtype))) for name, shape in shapes.items()]
    return TrainedWeights(named)


def stepped(weights: TrainedWeights, optim: str, steps: int) -> torch.optim.Optimizer:
    optimiser = optimiser_for(weights, optim, 1e-2, 0.1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for master in weights.masters:
            master.grad = torch.randn(master.shape, generator=generator)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        weights.write_back()
    return optimiser


def test_it_is_adamw_but_for_rounding() -> None:
    """The first step starts from zeros, which 8 bits hold; from the second on moments are off."""
    for steps, allowed in ((1, 1e-6), (5, 2e-2)):
        exact, rounded = trained(), trained()
        stepped(exact, "adamw", steps)
        stepped(rounded, EIGHT_BIT, steps)
        for name, master in exact.tensors().items():
            torch.testing.assert_close(rounded.tensors()[name], master, rtol=0, atol=allowed)
    assert not torch.equal(rounded.masters[0], exact.masters[0])
    assert torch.allclose(rounded.masters[2], exact.masters[2], atol=1e-6)  # small: in fp32


@pytest.mark.parametrize("optim", ["adamw", EIGHT_BIT])
def test_it_keeps_as_many_bytes_as_the_plan_tells(optim: str) -> None:
    weights = trained()
    optimiser = stepped(weights, optim, 1)
    kept = optimiser.state[weights.masters[0]].values()
    moments = [one for one in kept if isinstance(one, Tensor) and one.numel() != 256]
    held = sum(one.nbytes for one in moments if one.ndim)
    assert held == round(state_bytes(optim) * weights.masters[0].numel())


def test_bf16_weights_keep_their_masters() -> None:
    weights = trained(torch.bfloat16)
    stepped(weights, EIGHT_BIT, 3)
    assert all(master.dtype == torch.float32 for master in weights.masters)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eight-bit")
    for task in ("counting", "clock"):
        pico.write(folder / "data", task, "train", 24)
    return folder


def planned(home: Path, *, dtype: str = "float32", second: object = None, **more: object) -> Plan:
    clock = {"name": "clock", "train": "data/clock/train.jsonl", "training": second or {}}
    given = {
        "model": {"id": "pico-qwen", "dtype": dtype},
        "stages": [{"name": "counting", "train": "data/counting/train.jsonl"}, clock],
        "arms": [{"name": "arm", "recipe": "language"}],
        "training": {"batch_size": 8, "learning_rate": 1e-3} | more,
    }
    return plan(parse_experiment(given), home)


class Stopper(Observer):
    """Breaks off after a step."""

    def step(self, result: StepResult, samples_per_second: float) -> None:
        if result.step == 2:
            raise KeyboardInterrupt


def same(one: tuple[Record, Path], other: tuple[Record, Path]) -> bool:
    (first, there), (second, here) = one, other
    pairs = [
        (read_delta(delta_path(there, "arm", name)), read_delta(delta_path(here, "arm", name)))
        for name in ("counting", "clock")
    ]
    return first.losses == second.losses and all(
        torch.equal(before.tensors[name], after.tensors[name])
        for before, after in pairs
        for name in before.tensors
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_resumes_to_the_same_bits(home: Path, tmp_path: Path, dtype: str) -> None:
    resolved = planned(home, dtype=dtype, epochs=2, **ON)
    whole = run(resolved, tmp_path / "whole", options=QUIET)
    with pytest.raises(Interrupted):
        run(resolved, tmp_path / "cut", options=QUIET, observer=Stopper())
    rest = run(resolved, tmp_path / "cut", resume=True, options=QUIET)
    assert same((whole, tmp_path / "whole"), (rest, tmp_path / "cut"))
    assert all(row.held for row in whole.ledger)


def test_it_learns_and_gives_other_weights(home: Path, tmp_path: Path) -> None:
    exact = run(planned(home, epochs=6), tmp_path / "exact", options=QUIET)
    rounded = run(planned(home, epochs=6, **ON), tmp_path / "rounded", options=QUIET)
    assert not same((exact, tmp_path / "exact"), (rounded, tmp_path / "rounded"))
    last = [[row.loss for row in record.losses][-3:] for record in (exact, rounded)]
    assert sum(last[1]) == pytest.approx(sum(last[0]), rel=0.1)


def test_plan_and_record_say_that_it_rounds(home: Path, tmp_path: Path) -> None:
    plain, rounding = (planned(home, **more) for more in ({}, ON))
    (before,), (after,) = (one.to_dict()["arms"] for one in (plain, rounding))
    assert "rounds AdamW's moments to 8 bits" in " ".join(after["notes"])
    assert not any("8 bits" in note for note in before["notes"])
    assert after["optimiser_bytes"] / after["trained_numel"] == pytest.approx(4 + 2.03125)
    later = planned(home, second=ON)
    assert later.to_dict()["arms"][0]["optimiser_bytes"] == before["optimiser_bytes"]
    assert plain.digest != rounding.digest
    record = run(rounding, tmp_path / "run", options=QUIET)
    assert record.experiment.training.optim == EIGHT_BIT
    assert record.plan["arms"][0]["notes"] == after["notes"]


def test_the_rehearsal_holds_a_quarter(home: Path) -> None:
    made = planned(home)
    costs, arm = Costs(made, "h100-80g"), made.arms[0]
    plain, rounded = costs.of(arm), costs.of(arm, Choice(torch.float32, optim=EIGHT_BIT))
    assert not rounded.missing
    # Of pico-qwen's language tower the small tensors, which stay in fp32, are a few percent.
    assert 0.25 < rounded.parts["optimiser"] / plain.parts["optimiser"] < 0.4
    assert rounded.peak < plain.peak


def test_it_is_named_where_an_arm_does_not_fit(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = planned(home, micro_batch_size=1, batch_size=1)
    costs, arm = Costs(made, "t4-16g"), made.arms[0]
    least = costs.of(arm, Choice(torch.float32, optim=EIGHT_BIT)).peak
    monkeypatch.setattr(costs, "_named", replace(costs.device(), memory=least))
    assert f"training.optim: {EIGHT_BIT}" in [way.words for way in ways_to_fit(costs, arm)]


def test_a_missing_package_is_told_before_anything_runs(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("narrowtune.training.optimisers.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'narrowtune\[8bit\]'"):
        planned(home, second=ON)
    planned(home)
