"""What `plan` predicts: the same bytes as real steps hold, and ways to take fewer of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pico_tasks import small
from torch import nn

from narrowtune.data.batching import collate
from narrowtune.engine.rehearsal import Rehearsal
from narrowtune.experiment import Experiment
from narrowtune.models.loading import load_model
from narrowtune.runner import Plan, plan
from narrowtune.runner.cost import KINDS, Choice, Costs
from narrowtune.runner.fitting import ways_to_fit
from narrowtune.runner.rehearsing import rehearse
from narrowtune.runner.sparing import spared
from narrowtune.training.loop import answer_loss

Planned = Callable[..., Plan]
LORA = {"name": "lora", "recipe": "gate-up", "method": {"lora": {"rank": 4}}}
MOE = {"name": "moe", "recipe": "gate-up", "method": {"moe": {"top_k": 2}}}
LWF = {"name": "lwf", "recipe": "gate-up", "method": {"lwf": {}, "l2_sp": {"weight": 0.1}}}


@pytest.fixture
def planned(drawn: Path, tmp_path: Path) -> Planned:
    """Plans counting on the bundled models."""
    (tmp_path / "data").symlink_to(drawn)

    def make(*arms: str | dict[str, Any], model: str = "pico-qwen", **training: Any) -> Plan:
        listed = [{"name": one, "recipe": one} if isinstance(one, str) else one for one in arms]
        told = {"batch_size": 8, "steps": 3} | training
        raw = small((), arms=listed, training=told, model={"id": model, "dtype": "float32"})
        return plan(Experiment.model_validate(raw), tmp_path)

    return make


def held_for_real(made: Plan) -> int:
    """Bytes at the peak of a real forward and backward of the first arm, all weights counted."""
    arm, stage = made.arms[0], made.stages[0]
    settings = made.settings(arm, stage)
    batch = collate(stage.rows[: settings.batch_size], made.processing, padding_side="right")
    model: nn.Module = load_model(made.model, device="cpu", dtype="float32").train()
    arm.selection.apply(model)
    memory = Rehearsal()
    memory.hold([*model.parameters(), *model.buffers(), *batch.inputs.values()], "weights")
    with memory.watch(), spared(model, made.anatomy, arm.towers):
        torch.autograd.backward(answer_loss(model, batch))
    return sum(memory.at_peak().values())


@pytest.mark.parametrize("model", ["pico-qwen", "pico-llava"])
@pytest.mark.parametrize("recipe", ["gate-up", "vision"])
def test_a_rehearsal_holds_what_a_real_step_holds(
    planned: Planned, model: str, recipe: str
) -> None:
    made = planned(recipe, model=model)
    arm, stage = made.arms[0], made.stages[0]
    settings = made.settings(arm, stage)
    batch = collate(stage.rows[: settings.batch_size], made.processing, padding_side="right")
    parts = rehearse(made, arm, batch, settings, torch.float32).memory.at_peak()
    assert sum(parts.values()) - parts["optimiser"] == pytest.approx(held_for_real(made), rel=0.01)


def test_the_parts_make_the_peak(planned: Planned) -> None:
    made = planned("gate-up", "language")
    costs = Costs(made)
    narrow, wide = (costs.of(arm) for arm in made.arms)
    assert sum(narrow.parts.values()) == narrow.peak < wide.peak
    sizes = [arm.selection.trained_numel for arm in made.arms]
    whole = made.arms[0].selection.total_numel
    for cost, trained in zip((narrow, wide), sizes, strict=True):
        assert cost.parts["optimiser"] == pytest.approx(2 * 4 * trained, rel=0.01)
        assert cost.parts["weights"] == pytest.approx(4 * whole, rel=0.02)
        assert set(cost.parts) <= {*KINDS, "kept_batches", "process", "allocator"}
        assert cost.seconds is not None and cost.seconds > 0 and not cost.missing


def test_bfloat16_halves_weights_and_has_masters(planned: Planned) -> None:
    made = planned("gate-up")
    costs, arm = Costs(made, "h100-80g"), made.arms[0]
    full, half = costs.of(arm), costs.of(arm, Choice(torch.bfloat16))
    assert half.parts["weights"] == pytest.approx(full.parts["weights"] / 2, rel=0.02)
    assert half.parts["masters"] == 4 * arm.selection.trained_numel
    assert "masters" not in full.parts and "process" not in full.parts
    assert half.peak < full.peak


def test_gradients_wait_for_the_other_micro_batches(planned: Planned) -> None:
    made = planned("language", micro_batch_size=2)
    costs, arm = Costs(made, "l4-24g"), made.arms[0]
    cost = costs.of(arm)
    assert cost.micro_batch_size == 2
    assert cost.parts["gradients"] >= 4 * arm.selection.trained_numel
    assert cost.peak < costs.of(arm, Choice(torch.float32, 8)).peak


@pytest.mark.parametrize("arm", [LORA, MOE, LWF], ids=lambda arm: str(arm["name"]))
def test_methods_are_rehearsed_too(planned: Planned, arm: dict[str, Any]) -> None:
    if arm is LORA:
        pytest.importorskip("peft")
    made = planned("gate-up", arm)
    costs = Costs(made, "h100-80g")
    plain, with_method = (costs.of(one) for one in made.arms)
    assert not with_method.missing
    trained = made.arms[1].trained_numel
    assert with_method.parts["optimiser"] == pytest.approx(2 * 4 * trained, rel=0.02)
    if arm is LWF:  # the teacher's weights, and the base's for the pull
        kept = 2 * 4 * trained
        assert with_method.parts["methods"] == pytest.approx(kept, rel=0.02)
    if arm is MOE:
        assert with_method.parts["weights"] > plain.parts["weights"]


@pytest.mark.slow
def test_what_does_not_fit_is_told_ways_that_do(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = planned("language")
    costs, arm = Costs(made, "t4-16g"), made.arms[0]
    whole = costs.of(arm)
    assert costs.fits(whole)
    least = costs.of(arm, Choice(torch.float32, 1)).peak

    def shrink(memory: int) -> None:
        monkeypatch.setattr(costs, "_named", replace(costs.device(), memory=memory))

    shrink(whole.peak - 1)
    ways = ways_to_fit(costs, arm)
    assert all(way.fits and way.cost.peak < whole.peak for way in ways)
    assert {way.words for way in ways} >= {
        "training.micro_batch_size: 4", "model.dtype: bfloat16", "recipe: gate-up",
    }  # fmt: skip
    shrink(least // 2)
    ways = ways_to_fit(costs, arm)
    assert not any(way.fits for way in ways)
    assert min(ways, key=lambda way: way.cost.peak).words == (
        "recipe: gate-up, model.dtype: bfloat16, training.activation_checkpointing: true,"
        " training.offload_optimizer: true, training.micro_batch_size: 1"
    )


def test_a_class_that_looks_at_its_values_is_told_apart(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looking(*_: object) -> None:
        raise RuntimeError("a number was wanted")

    monkeypatch.setattr("narrowtune.runner.cost.rehearse", looking)
    made = planned("gate-up")
    cost = Costs(made, "h100-80g").of(made.arms[0])
    assert "a number was wanted" in cost.missing and cost.seconds is None
    assert cost.parts["optimiser"] == 2 * 4 * made.arms[0].trained_numel
    assert "activations" not in cost.parts
