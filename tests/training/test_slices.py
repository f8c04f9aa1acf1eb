"""Training slices of a fused tensor is training the same model with its parts apart."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from split_models import PAIRS, Pair
from torch import Tensor, nn

from narrowtune.anatomy import Anatomy, release
from narrowtune.anatomy.windows import plain_tensors
from narrowtune.data.batching import collate
from narrowtune.data.encoding import Encoded
from narrowtune.delta import Ledger, changed, fingerprint, load_tensors
from narrowtune.engine import Engine
from narrowtune.models.loading import load_model
from narrowtune.models.processing import Processing
from narrowtune.training import Hooks, Interrupted, Settings, StepResult, run_stage
from narrowtune.training.optimisers import optimiser_for
from narrowtune.training.weights import TrainedWeights

TERMS = {
    "phi3": [
        ["language.mlp.gate", "language.mlp.up"],
        ["language.mlp.gate"],
        ["language.attn.q", "language.attn.v", "language.mlp.up"],
    ],
    "gpt2": [["language.attn.q"], ["language.attn.k", "language.attn.v"]],
    "mixtral": [["language.experts.gate", "language.experts.up"], ["language.experts.up"]],
}
CASES = [(family, terms) for family, cases in TERMS.items() for terms in cases]


def batch(step: int) -> Tensor:
    return torch.randint(3, 96, (2, 12), generator=torch.Generator().manual_seed(step))


def teach(model: nn.Module, named: Sequence[tuple[str, nn.Parameter]], steps: int = 6) -> Tensor:
    """The losses of a few steps with AdamW, decay, and a clip that bites."""
    weights = TrainedWeights(named)
    optimiser = optimiser_for(weights, "adamw", 1e-3, decay=0.1)
    losses = []
    for step in range(steps):
        for half in batch(step):
            part = model(half[None], labels=half[None]).loss / 2
            part.backward()
            weights.collect()
        losses.append(part.detach())
        weights.clip(0.5)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        weights.write_back()
    return torch.stack(losses)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        output: Tensor = model(batch(99)).logits
    return output


def teach_both(family: str, terms: list[str]) -> tuple[Pair, Tensor, Tensor]:
    pair = PAIRS[family]()
    assert torch.allclose(logits(pair.fused), logits(pair.split), atol=1e-6)
    twins = pair.twins(terms)
    for parameter in pair.split.parameters():
        parameter.requires_grad = any(parameter is twin for twin in twins)
    selection = Anatomy.of(pair.fused).select(terms)
    assert selection.trained_numel == sum(twin.numel() for twin in twins)
    fused = teach(pair.fused, selection.apply(pair.fused))
    split = teach(pair.split, [(n, p) for n, p in pair.split.named_parameters() if p.requires_grad])
    return pair, fused, split


@pytest.mark.parametrize(("family", "terms"), CASES, ids=str)
def test_fused_slices_train_as_separate_projections_do(family: str, terms: list[str]) -> None:
    pair, fused, split = teach_both(family, terms)
    torch.testing.assert_close(fused, split, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits(pair.fused), logits(pair.split), rtol=1e-3, atol=1e-4)
    untaught = PAIRS[family]()
    assert not torch.allclose(logits(pair.fused), logits(untaught.fused), atol=1e-3)


def test_another_slice_would_show() -> None:
    """The law broken once: up's rows are not gate's."""
    pair = PAIRS["phi3"]()
    fused = teach(pair.fused, Anatomy.of(pair.fused).select(["language.mlp.up"]).apply(pair.fused))
    twins = pair.twins(["language.mlp.gate"])
    split = teach(pair.split, [(str(i), twin) for i, twin in enumerate(twins)])
    assert not torch.allclose(fused, split, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("family", "terms"), [(f, t) for f, t in CASES if f != "gpt2"], ids=str)
def test_all_other_entries_stay_bit_equal(
    family: str, terms: list[str], dtype: torch.dtype
) -> None:
    model = PAIRS[family]().fused.to(dtype)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    selection = Anatomy.of(model).select(terms)
    ledger = Ledger(model, selection)
    named = selection.apply(model)
    weights = TrainedWeights(named)
    assert weights.numel == selection.trained_numel
    assert all(master.dtype == torch.float32 for master in weights.masters)
    teach(model, named)
    assert ledger.changed() == ()
    release(model)
    after = model.state_dict()
    for tensor in selection.tensors:
        region = tensor.region
        if region is not None:
            rest = region.complement(after[tensor.name].shape[region.dim])
            assert torch.equal(rest.take(after[tensor.name]), rest.take(before[tensor.name]))
            inside = region.take(after[tensor.name]) != region.take(before[tensor.name])
            assert inside.float().mean() > 0.1


def test_the_ledger_sees_a_change_in_the_frozen_rows_of_a_trained_tensor() -> None:
    model = PAIRS["phi3"]().fused
    selection = Anatomy.of(model).select(["language.mlp.gate"])
    ledger = Ledger(model, selection)
    selection.apply(model)
    name = selection.trained[1]
    with torch.no_grad():
        dict(plain_tensors(model))[name][60] += 1.0
    assert ledger.changed() == (name,)


@pytest.mark.parametrize("stop_at", [1, 3])
def test_a_resumed_stage_of_slices_ends_in_the_same_bits(
    counting: list[Encoded], processing: Processing, tmp_path: Path, stop_at: int
) -> None:
    """Real images through the vision tower's fused q, k, v."""
    settings = Settings(
        steps=5, batch_size=8, micro_batch_size=4, learning_rate=1e-3, weight_decay=0.1
    )

    def run(hooks: Hooks) -> nn.Module:
        model = load_model("pico-qwen", device="cpu", dtype="float32")
        named = Anatomy.of(model).select(["vision.attn.q", "vision.attn.v"]).apply(model)
        data = (counting, partial(collate, processing=processing, padding_side="right"))
        run_stage(model, named, data, settings, Engine("cpu"), hooks)
        return model

    straight = run(Hooks(tmp_path / "none.safetensors", every_seconds=1e9))
    seen: list[StepResult] = []
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Interrupted):
        run(Hooks(path, on_step=seen.append, should_stop=lambda: len(seen) == stop_at))
    masters = [t for name, t in load_tensors(path).items() if name.startswith("master/")]
    assert {tuple(t.shape) for t in masters} == {(256, 128), (256,)}
    resumed = run(Hooks(path, every_seconds=1e9))
    assert not changed(fingerprint(straight), fingerprint(resumed))
    base = load_model("pico-qwen", device="cpu", dtype="float32")
    moved = changed(fingerprint(base), fingerprint(resumed))
    assert len(moved) == 8 and all("attn.qkv" in name for name in moved)
