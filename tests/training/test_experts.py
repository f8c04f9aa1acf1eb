"""A mixture of experts: the base at first, and whenever its routers choose the original."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from narrowtune.anatomy import Anatomy
from narrowtune.data.batching import Batch, collate
from narrowtune.data.encoding import Encoded
from narrowtune.models.experts import Router, add_experts, block_of, experts_of
from narrowtune.models.processing import Processing
from narrowtune.record import Experts
from narrowtune.training.loop import answer_loss

Make = Callable[[], nn.Module]


@pytest.fixture
def batch(counting: list[Encoded], processing: Processing) -> Batch:
    return collate(counting[:4], processing, padding_side="right")


def mixed(make: Make, top_k: int) -> tuple[nn.Module, list[tuple[str, nn.Parameter]]]:
    model = make()
    selection = Anatomy.of(model).select(["gate-up"])
    for _, one in selection.apply(model):
        one.requires_grad = False
    blocks = dict.fromkeys(block_of(model, name) for name in selection.trained)
    experts = Experts(blocks=tuple(path for path in blocks if path), top_k=top_k)
    named = add_experts(model, experts, selection.trained)
    assert experts_of(model) == experts
    return model, named


@torch.no_grad()
def logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    return model(**batch.inputs).logits


@pytest.mark.parametrize("top_k", [1, 2])
def test_a_new_mixture_computes_what_the_base_does(
    pico_model: Make, batch: Batch, top_k: int
) -> None:
    model, named = mixed(pico_model, top_k)
    assert torch.equal(logits(model, batch), logits(pico_model(), batch))
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    assert trained == {name for name, _ in named}
    plain = dict(pico_model().named_parameters())
    extra = sum(one.numel() for name, one in model.named_parameters() if name not in plain)
    assert extra == sum(one.numel() for _, one in named)  # down is shared, not copied


@pytest.mark.parametrize("top_k", [1, 2])
def test_routers_forced_to_the_original_give_the_base(
    pico_model: Make, batch: Batch, top_k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, named = mixed(pico_model, top_k)
    with torch.no_grad():
        for name, one in named:
            if ".tuned." in name:
                one.add_(1.0)
    assert not torch.allclose(logits(model, batch), logits(pico_model(), batch), atol=0.1)
    plain = nn.Linear.forward

    def forced(self: nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
        found = plain(self, hidden)
        return torch.tensor([200.0, -200.0]).expand_as(found) if isinstance(self, Router) else found

    monkeypatch.setattr(nn.Linear, "forward", forced)
    assert torch.equal(logits(model, batch), logits(pico_model(), batch))


@pytest.mark.parametrize("top_k", [1, 2])
def test_the_same_experts_answer_in_training_and_in_use(
    pico_model: Make, batch: Batch, top_k: int
) -> None:
    model, named = mixed(pico_model, top_k)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, one in named:
            one.add_(0.05 * torch.randn(one.shape, generator=generator))
    said = [logits(mode, batch) for mode in (model.train(), model.eval())]
    assert torch.equal(*said)


@pytest.mark.parametrize("top_k", [1, 2])
def test_copies_and_routers_learn(pico_model: Make, batch: Batch, top_k: int) -> None:
    model, named = mixed(pico_model, top_k)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # apart from the original, or no choice would make a difference
        for _, one in named:
            one.add_(0.02 * torch.randn(one.shape, generator=generator))
    answer_loss(model, batch).backward()
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for _, one in named)
    frozen = [one for one in model.parameters() if not one.requires_grad]
    assert all(one.grad is None for one in frozen)


def test_one_expert_answers_where_one_is_asked_for() -> None:
    router = Router(3, Experts(blocks=(), top_k=1))
    found = router(torch.randn(5, 7, 3))
    assert found.shape == (5, 7, 2)
    assert set(found.flatten().tolist()) == {0.0, 1.0}
    assert found.sum(-1).eq(1).all()
