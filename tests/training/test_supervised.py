"""The head at supervised positions only gives the loss and gradients of the full logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from narrowtune.data import read_examples
from narrowtune.data.batching import Batch, collate
from narrowtune.data.encoding import encode_all
from narrowtune.models.loading import load_model, without_gradient
from narrowtune.models.processing import load_processing
from narrowtune.models.supervised import output_head, predicting, supervised_logits
from narrowtune.training.loop import answer_loss


def vlm_batch(name: str, drawn: Path) -> tuple[nn.Module, Batch]:
    """A bundled model with a batch that mixes tasks, so answers differ in length."""
    processing = load_processing(name)
    examples = read_examples(drawn / "counting" / "test.jsonl")[:3]
    examples += read_examples(drawn / "captions" / "test.jsonl")[:3]
    rows = encode_all(examples, processing)
    model = load_model(name, device="cpu", dtype="float32")
    return model, collate(rows, processing, padding_side="right")


def text_batch() -> tuple[nn.Module, Batch]:
    """A tiny Llama with a hand-made batch."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    ids = torch.randint(0, 97, (4, 12))
    supervised = torch.zeros(4, 12, dtype=torch.bool)
    for row, (first, last) in enumerate([(3, 5), (10, 12), (1, 11), (6, 7)]):
        supervised[row, first:last] = True
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return LlamaForCausalLM(config), Batch(inputs, supervised, 48, int(supervised.sum()))


@pytest.fixture(params=["pico-qwen", "pico-llava", "llama"])
def case(request: pytest.FixtureRequest, drawn: Path) -> tuple[nn.Module, Batch]:
    return text_batch() if request.param == "llama" else vlm_batch(request.param, drawn)


def full_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """The textbook: all logits, shifted, padded labels ignored."""
    logits = model(**batch.inputs, use_cache=False).logits[:, :-1]
    labels = batch.inputs["input_ids"].masked_fill(~batch.supervised, -100)[:, 1:]
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")


def test_loss_and_gradients_agree(case: tuple[nn.Module, Batch]) -> None:
    model, batch = case
    full_loss(model, batch).backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    loss = answer_loss(model, batch)
    loss.backward()
    torch.testing.assert_close(loss, full_loss(model, batch), rtol=1e-5, atol=1e-5)
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-4, msg=name)


def test_only_the_asked_rows_are_computed(case: tuple[nn.Module, Batch]) -> None:
    model, batch = case
    rows: list[int] = []
    handle = output_head(model).register_forward_hook(lambda m, i, out: rows.append(out.numel()))
    logits = supervised_logits(model, batch.inputs, predicting(batch.supervised))
    handle.remove()
    assert logits.shape[0] == int(batch.supervised.sum())
    assert rows == [logits.numel()]
    # The hook is gone again: a plain forward has all positions.
    plain = model(**batch.inputs, use_cache=False).logits
    assert plain.shape[:2] == batch.inputs["input_ids"].shape


def test_frozen_towers_save_nothing(drawn: Path) -> None:
    model, batch = vlm_batch("pico-qwen", drawn)
    grads: list[bool] = []
    block = model.get_submodule("model.visual.blocks.0")
    handle = block.register_forward_hook(lambda m, i, out: grads.append(out.requires_grad))
    with without_gradient(model, ["model.visual.blocks"]):
        answer_loss(model, batch)
    answer_loss(model, batch)
    handle.remove()
    assert grads == [False, True]  # under the context, and after it
