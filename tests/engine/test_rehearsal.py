"""A rehearsal holds, moment by moment, what the same work holds on real tensors."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from narrowtune.engine.rehearsal import Rehearsal, hollow
from narrowtune.engine.resident import peak_on_cpu, peak_on_gpu


def step(model: nn.Module, ids: Tensor, wanted: Tensor) -> Rehearsal:
    """Forward and backward, with the loss at some places only."""
    rehearsal = Rehearsal(wide=50)
    rehearsal.hold(model.parameters(), "weights")
    with rehearsal.watch():
        rehearsal.begin()
        logits = model(ids)[wanted]
        torch.autograd.backward(logits.logsumexp(dim=-1).sum())
    return rehearsal


def small_model() -> nn.Module:
    """Its embedding is its head, too."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 50))
    model[3].weight = model[0].weight  # type: ignore[union-attr]
    return model


def test_without_data_as_with_data() -> None:
    model = small_model()
    ids, wanted = torch.arange(40).reshape(4, 10), torch.arange(40).reshape(4, 10) % 3 == 0
    fake = hollow(deepcopy(model), FakeTensorMode(allow_non_fake_inputs=True))
    assert all(isinstance(one, FakeTensor) for one in fake.parameters())
    assert sum(1 for _ in fake.parameters()) == sum(1 for _ in model.parameters())  # still tied
    real, rehearsed = step(model, ids, wanted), step(fake, ids, wanted)
    assert rehearsed.at_peak() == real.at_peak()
    flops = [[flops for flops, _ in one.work if flops] for one in (rehearsed, real)]
    assert flops[0] == flops[1]


def test_products_are_counted() -> None:
    """Forward 2 m n k, backward twice that: every operand here needs a gradient."""
    model = nn.Linear(8, 4, bias=False)
    rehearsal = Rehearsal()
    given = torch.ones(6, 8, requires_grad=True)
    with rehearsal.watch():
        torch.autograd.backward(model(given).sum())
    assert sum(flops for flops, _ in rehearsal.work) == 3 * 2 * 6 * 8 * 4


def test_what_is_freed_is_not_counted_twice() -> None:
    rehearsal = Rehearsal()
    with rehearsal.watch():
        for _ in range(5):
            block = torch.empty(1000, dtype=torch.uint8)
            del block
    assert rehearsal.at_peak() == {"activations": 1000}


def test_a_devices_own_share_comes_on_top() -> None:
    rehearsal = Rehearsal()
    held = [torch.empty(1000, dtype=torch.uint8), torch.empty(2**26, dtype=torch.uint8)]
    rehearsal.hold(held, "weights")
    total = 1000 + 2**26
    assert rehearsal.at_peak() == {"weights": total}
    assert peak_on_gpu(rehearsal) > total + 24  # 1000 bytes lie in two blocks of 512
    alone = peak_on_cpu([rehearsal], 5 * 2**20)
    assert alone > total + 5 * 2**20
    # What came before in the process has made the heap larger, but what it mapped is given back.
    before = Rehearsal()
    several = [torch.empty(2**20, dtype=torch.uint8) for _ in range(8)]
    before.hold([*several, torch.empty(2**27, dtype=torch.uint8)], "weights")
    assert 8 * 2**20 - 1000 < peak_on_cpu([before, rehearsal], 5 * 2**20) - alone < 2**24
    assert peak_on_cpu([rehearsal, before], 0) == peak_on_cpu([before], 0)
