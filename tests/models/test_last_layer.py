"""The last layer only where it is read gives the loss and gradients of the whole layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_phi3 import tiny_phi3
from torch import Tensor, nn
from transformers import (
    BambaConfig,
    BambaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from narrowtune.anatomy import Anatomy
from narrowtune.data import read_examples
from narrowtune.data.batching import Batch, collate
from narrowtune.data.encoding import encode_all
from narrowtune.models.experts import add_experts
from narrowtune.models.last_layer import LastLayer
from narrowtune.models.loading import load_model
from narrowtune.models.lora import Adapters, Rank, adaptable
from narrowtune.models.processing import load_processing
from narrowtune.models.supervised import predicting, supervised_logits
from narrowtune.record import Experts
from narrowtune.training.loop import answer_loss

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def llama() -> nn.Module:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SMALL))


def qwen2() -> nn.Module:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(Qwen2Config(**SMALL))


TEXT: dict[str, Callable[[], nn.Module]] = {
    "llama": llama,
    "qwen2": qwen2,
    "phi3": lambda: tiny_phi3(vocab_size=97),  # queries fused with keys and values
}


def text_batch() -> Batch:
    """Rows of different lengths, their answers at different places, one row with none."""
    torch.manual_seed(1)
    ids = torch.randint(3, 97, (5, 12))
    mask, supervised = torch.ones_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for row, (first, last) in enumerate([(3, 5), (10, 12), (1, 9), (6, 7)]):
        supervised[row, first:last] = True
    mask[2, 9:] = 0
    return Batch({"input_ids": ids, "attention_mask": mask}, supervised, 57, 13)


def image_batch(name: str, drawn: Path) -> Batch:
    """Rows of two tasks, so answers differ in length."""
    processing = load_processing(name)
    examples = read_examples(drawn / "counting" / "test.jsonl")[:2]
    examples += read_examples(drawn / "captions" / "test.jsonl")[:2]
    return collate(encode_all(examples, processing), processing, padding_side="right")


@pytest.fixture(params=[*TEXT, "pico-qwen", "pico-llava"])
def case(request: pytest.FixtureRequest, drawn: Path) -> tuple[nn.Module, Batch]:
    if request.param in TEXT:
        return TEXT[request.param]().train(), text_batch()
    model = load_model(request.param, device="cpu", dtype="float32")
    return model.train(), image_batch(request.param, drawn)


def learned(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and every gradient."""
    model.zero_grad()
    loss = answer_loss(model, batch)
    loss.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), found


def test_loss_and_gradients_are_the_same(case: tuple[nn.Module, Batch]) -> None:
    model, batch = case
    model, layer = model.double(), LastLayer.of(Anatomy.of(model))
    batch.inputs.update({k: v.double() for k, v in batch.inputs.items() if v.is_floating_point()})
    loss, expected = learned(model, batch)
    with layer.spared(model):
        narrow, found = learned(model, batch)
    assert abs(narrow / loss - 1) < 1e-6
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        largest = float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-6 * largest, msg=name)


def test_only_chosen_rows_are_computed(case: tuple[nn.Module, Batch]) -> None:
    model, batch = case
    layer, rows = LastLayer.of(Anatomy.of(model)), list[int]()
    mlp = model.get_submodule(layer.layer).mlp
    handle = mlp.down_proj.register_forward_pre_hook(
        lambda module, args: rows.append(args[0].numel() // args[0].shape[-1])
    )
    with layer.spared(model):
        answer_loss(model, batch)
        supervised_logits(model, batch.inputs, predicting(batch.supervised))  # all may be read
    answer_loss(model, batch)  # the hooks are gone again
    handle.remove()
    everywhere = batch.supervised.numel()
    assert rows == [int(batch.supervised.sum()), everywhere, everywhere]
    assert len(layer.modules) == (2 if "phi3" in type(model).__name__.lower() else 3)


def test_the_trial_agrees(case: tuple[nn.Module, Batch]) -> None:
    model, batch = case
    assert LastLayer.of(Anatomy.of(model)).agrees(model, batch.inputs, predicting(batch.supervised))
    assert model.training


class Averaging(nn.Module):
    """Every position reads those before it, behind the last layer."""

    def forward(self, hidden: Tensor) -> Tensor:
        counts = torch.arange(1, hidden.shape[1] + 1)[:, None]
        return hidden.cumsum(dim=1) / counts


def test_the_trial_notices_who_else_reads_the_layer() -> None:
    model, batch = llama(), text_batch()
    model.get_submodule("model").norm = Averaging()
    assert not LastLayer.of(Anatomy.of(model)).agrees(
        model, batch.inputs, predicting(batch.supervised)
    )


class ByKeyword(nn.Module):
    """An MLP that its layer calls in a way of its own."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.down_proj(self.gate_proj(hidden) * self.up_proj(hidden)), hidden


def test_the_trial_notices_other_outputs() -> None:
    model, batch = llama(), text_batch()
    last = model.get_submodule("model.layers.2")
    last.mlp = ByKeyword(last.mlp)
    last.forward = lambda hidden, **_: hidden + last.mlp(hidden)[0]
    assert not LastLayer.of(Anatomy.of(model)).agrees(
        model, batch.inputs, predicting(batch.supervised)
    )


def test_other_layers_are_refused() -> None:
    experts = MixtralForCausalLM(MixtralConfig(**SMALL, num_local_experts=2))
    with pytest.raises(TypeError, match="router"):
        LastLayer.of(Anatomy.of(experts))
    mixers = BambaForCausalLM(
        BambaConfig(**SMALL, mamba_n_heads=4, mamba_d_state=8, mamba_expand=2, mamba_d_head=16)
    )
    with pytest.raises(TypeError, match="mixer"):
        LastLayer.of(Anatomy.of(mixers))


def test_a_checkpointed_layer_is_refused() -> None:
    model = llama().train()
    model.activation_checkpointing_enable()
    layer = LastLayer.of(Anatomy.of(model))
    with pytest.raises(TypeError, match="checkpointed"), layer.spared(model):
        raise AssertionError("the context must not be entered")


def test_adapters_and_experts_that_came_since() -> None:
    """What stands where a layer's own modules stood is handed the chosen rows in their place."""
    for put_on in (with_adapters, with_experts):
        model, batch = llama().double(), text_batch()
        layer = LastLayer.of(Anatomy.of(model))
        put_on(model)
        assert layer.agrees(model, batch.inputs, predicting(batch.supervised)), put_on.__name__
        loss, expected = learned(model.double(), batch)
        with layer.spared(model):
            narrow, found = learned(model, batch)
        assert abs(narrow / loss - 1) < 1e-9
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, msg=name)


def with_adapters(model: nn.Module) -> None:
    names = adaptable(model, [name for name, _ in model.named_parameters()])
    for name, one in Adapters(model, names, Rank(rank=2), seed=0).named:
        if "lora_B" in name:
            nn.init.normal_(one, std=0.1)


def with_experts(model: nn.Module) -> None:
    anatomy = Anatomy.of(model)
    trained = [name for name, _ in anatomy.select(["gate-up"]).apply(model)]
    for parameter in model.parameters():
        parameter.requires_grad = False
    blocks = tuple(f"model.layers.{number}.mlp" for number in range(3))
    add_experts(model, Experts(blocks=blocks, top_k=2, seed=0), trained)
