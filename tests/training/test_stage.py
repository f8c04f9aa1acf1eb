"""A stage: what moves, what does not, and that stopping half-way changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from narrowtune.anatomy import Anatomy
from narrowtune.data.batching import collate
from narrowtune.data.encoding import Encoded
from narrowtune.delta import changed, fingerprint, load_tensors, save_tensors
from narrowtune.engine import Engine
from narrowtune.models.processing import Processing
from narrowtune.training import (
    Diverged,
    Hooks,
    Interrupted,
    Settings,
    StageResult,
    StepResult,
    batch_order,
    planned_steps,
    run_stage,
)

SETTINGS = Settings(
    steps=6, batch_size=8, micro_batch_size=8, learning_rate=1e-3, weight_decay=0.01, seed=5
)
Make = Callable[[], nn.Module]


class Stage:
    """Runs stages of the counting rows on fresh models."""

    def __init__(
        self, make: Make, rows: Sequence[Encoded], processing: Processing, folder: Path
    ) -> None:
        self.make, self.rows, self.folder = make, rows, folder
        self.collate = partial(collate, processing=processing, padding_side="right")

    def run(
        self,
        recipe: str = "gate-up",
        settings: Settings = SETTINGS,
        hooks: Hooks | None = None,
        model: nn.Module | None = None,
    ) -> tuple[nn.Module, StageResult]:
        model = model or self.make()
        named = Anatomy.of(model).select([recipe]).apply(model)
        hooks = hooks or Hooks(self.folder / "none.safetensors", every_seconds=1e9)
        data = (self.rows, self.collate)
        return model, run_stage(model, named, data, settings, Engine("cpu"), hooks)


@pytest.fixture
def stage(
    pico_model: Make, counting: list[Encoded], processing: Processing, tmp_path: Path
) -> Stage:
    return Stage(pico_model, counting, processing, tmp_path)


def losses(result: StageResult) -> list[float]:
    return [step.loss for step in result.steps]


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same_bits(one: nn.Module, other: nn.Module) -> bool:
    return not changed(fingerprint(one), fingerprint(other))


@pytest.mark.parametrize("recipe", ["gate-up", "attention", "language", "connector", "vision"])
def test_only_the_selected_tensors_move(stage: Stage, recipe: str) -> None:
    before = stage.make()
    after, result = stage.run(recipe)
    selected = set(Anatomy.of(after).select([recipe]).trained)
    moved = set(changed(fingerprint(before), fingerprint(after)))
    assert moved <= selected
    # Everything selected is reached by a gradient, but for rows that no token uses.
    assert len(moved) >= 0.9 * len(selected)
    assert len(losses(result)) == SETTINGS.steps


def test_it_learns(stage: Stage) -> None:
    _, result = stage.run("language", replace(SETTINGS, steps=40))
    assert sum(losses(result)[-5:]) < 0.7 * sum(losses(result)[:5])


def test_the_same_seed_gives_the_same_bits(stage: Stage) -> None:
    one, first = stage.run()
    other, second = stage.run()
    assert losses(first) == losses(second)
    assert same_bits(one, other)
    changed_seed, third = stage.run(settings=replace(SETTINGS, seed=6))
    assert losses(third) != losses(first)
    assert not same_bits(one, changed_seed)


@pytest.mark.parametrize("micro", [1, 3, 4])
def test_micro_batches_do_not_change_the_result(stage: Stage, micro: int) -> None:
    whole, first = stage.run()
    parts, second = stage.run(settings=replace(SETTINGS, micro_batch_size=micro))
    assert losses(second) == pytest.approx(losses(first), rel=1e-5)
    # Adam divides by the gradient's own size, so rounding shows where a gradient is almost zero.
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], tensor, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("stop_at", [1, 4])
def test_a_resumed_stage_ends_in_the_same_bits(stage: Stage, tmp_path: Path, stop_at: int) -> None:
    straight, uninterrupted = stage.run("language")
    seen: list[StepResult] = []
    hooks = Hooks(
        tmp_path / "checkpoint.safetensors",
        on_step=seen.append,
        should_stop=lambda: len(seen) == stop_at,
    )
    with pytest.raises(Interrupted, match=f"after step {stop_at} of 6"):
        stage.run("language", hooks=hooks)
    again = Hooks(hooks.checkpoint, every_seconds=1e9)
    resumed, finished = stage.run("language", hooks=again)
    assert losses(finished) == losses(uninterrupted)
    assert finished.steps == uninterrupted.steps
    assert same_bits(straight, resumed)


def test_a_checkpoint_without_its_moments_would_show(stage: Stage, tmp_path: Path) -> None:
    """The law of the test above is broken once, to see that it can fail."""
    straight, _ = stage.run()
    seen: list[StepResult] = []
    path = tmp_path / "checkpoint.safetensors"
    hooks = Hooks(path, on_step=seen.append, should_stop=lambda: len(seen) == 3)
    with pytest.raises(Interrupted):
        stage.run(hooks=hooks)
    tensors = load_tensors(path)
    spoilt = {k: v * 0 if "exp_avg/" in k else v for k, v in tensors.items()}
    save_tensors(path, spoilt)
    resumed, _ = stage.run(hooks=Hooks(path, every_seconds=1e9))
    assert not same_bits(straight, resumed)


def test_divergence_keeps_the_last_good_checkpoint(stage: Stage, tmp_path: Path) -> None:
    """The third update breaks a trained weight, which only the fourth step's loss will show."""
    model = stage.make()
    hooks = Hooks(
        tmp_path / "checkpoint.safetensors",
        every_seconds=0.0,
        on_step=lambda result: _poison(model) if result.step == 3 else None,
    )
    with pytest.raises(Diverged, match="at step 4"):
        stage.run(model=model, hooks=hooks)
    kept = load_tensors(hooks.checkpoint)
    assert all(t.isfinite().all() for name, t in kept.items() if name.startswith("master/"))
    resumed, result = stage.run(hooks=Hooks(hooks.checkpoint, every_seconds=1e9))
    straight, _ = stage.run()
    assert same_bits(resumed, straight)
    assert len(result.steps) == SETTINGS.steps


@torch.no_grad()
def _poison(model: nn.Module) -> None:
    model.get_parameter("model.language_model.layers.0.mlp.gate_proj.weight")[0, 0] = float("nan")


@pytest.mark.parametrize(("batch", "epochs"), [(32, 1.0), (8, 2.0), (7, 3.0), (100, 2.0)])
def test_whole_epochs_show_every_sample_equally_often(batch: int, epochs: float) -> None:
    steps = planned_steps(45, batch, epochs, None)
    settings = replace(SETTINGS, steps=steps, batch_size=batch)
    order = batch_order([5] * 45, settings)
    seen = Counter(index for rows in order for index in rows)
    assert set(seen.values()) == {int(epochs)} and len(seen) == 45


def test_bf16_weights_have_fp32_masters(stage: Stage) -> None:
    """At this rate an update is below bf16's resolution; masters keep the sum of many."""
    model = stage.make().to(torch.bfloat16)
    before = weights(model)
    tiny = replace(SETTINGS, steps=30, learning_rate=2e-5, schedule="constant", weight_decay=0.0)
    _, result = stage.run("attention", tiny, model=model)
    selected = Anatomy.of(model).select(["attention"]).trained
    after = weights(model)
    assert all(after[name].dtype == torch.bfloat16 for name in selected)
    assert all(not torch.equal(after[name], before[name]) for name in selected if "weight" in name)
    frozen = set(before) - set(selected)
    assert all(torch.equal(after[name], before[name]) for name in frozen)
    assert len(result.steps) == 30
