"""A tied embedding's gradient as rows: the same sums, and one dense tensor instead of three."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from small_models import WORDS, gemma, gpt2, llama
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from narrowtune.anatomy import Anatomy
from narrowtune.models.supervised import supervised_logits
from narrowtune.models.tied_embedding import tied_rows_alone
from narrowtune.training.weights import TrainedWeights


def learned(model: nn.Module, seed: int) -> Tensor:
    """The loss of a few marked positions, put through the backward pass."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, WORDS, (3, 12), generator=draw)
    predicts = torch.zeros_like(ids, dtype=torch.bool)
    predicts[:, -3:] = True
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    logits = supervised_logits(model.train(), inputs, predicts)
    loss = torch.nn.functional.cross_entropy(logits, ids[:, :3].flatten())
    torch.autograd.backward(loss)
    return loss.detach()


class Dense(TorchDispatchMode):
    """Counts tensors as large as the embedding that a backward pass makes."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.made = shape, set[int]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.layout == torch.strided and out.shape == self.shape:
            self.made.add(out.untyped_storage()._cdata)
        return out


@pytest.mark.parametrize("make", [llama, lambda: gpt2(dropout=0)])
def test_the_gradient_is_the_same(make: Callable[[], nn.Module]) -> None:
    plain, rows = make().double(), make().double()
    before = rows.get_input_embeddings().sparse
    for seed in range(2):  # the second micro-batch is added to the first
        one = learned(plain, seed)
        with tied_rows_alone(rows):
            other = learned(rows, seed)
        assert torch.equal(one, other)
    assert rows.get_input_embeddings().sparse is before is False
    for (name, left), (_, right) in zip(
        plain.named_parameters(), rows.named_parameters(), strict=True
    ):
        assert left.grad is not None and right.grad is not None, name
        assert not right.grad.is_sparse
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-12, atol=1e-12)


def test_the_embedding_s_share_is_never_dense() -> None:
    counts = []
    for context in (False, True):
        model = llama()
        dense = Dense((WORDS, 32))
        with dense:
            if context:
                with tied_rows_alone(model):
                    learned(model, 0)
            else:
                learned(model, 0)
        counts.append(len(dense.made))
    plain, rows = counts
    assert rows < plain


@pytest.mark.parametrize("make", [lambda: llama(tied=False), gemma])
def test_others_are_left_alone(make: Callable[[], nn.Module]) -> None:
    model = make()
    with tied_rows_alone(model):
        learned(model, 0)
        assert not model.get_input_embeddings().sparse
    grad = model.get_input_embeddings().weight.grad
    assert grad is not None and not grad.is_sparse


def test_a_frozen_embedding_has_no_gradient() -> None:
    model = llama()
    Anatomy.of(model).select(["gate-up"]).apply(model)
    with tied_rows_alone(model):
        assert not model.get_input_embeddings().sparse


def test_rows_without_a_head_s_gradient_are_made_dense_for_the_optimiser() -> None:
    model = llama()
    weights = TrainedWeights([("embedding", model.get_input_embeddings().weight)])
    with tied_rows_alone(model):
        states = model.model(input_ids=torch.tensor([[1, 2, 2]])).last_hidden_state
        torch.autograd.backward(states.sum())
    assert weights.masters[0].grad is not None and weights.masters[0].grad.is_sparse
    weights.collect()
    assert not weights.masters[0].grad.is_sparse
    assert weights.clip(1.0) > 0
