"""Elementwise results computed again: the same bits, fewer bytes kept, nothing left behind."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from small_models import INNER, LAYERS, WORDS, gemma, gpt2, llama, mixtral, phi3
from torch import Tensor, nn

from narrowtune.anatomy import Anatomy
from narrowtune.models import recomputing
from narrowtune.models.activation_checkpointing import checkpointable, checkpointed
from narrowtune.models.recomputing import recomputing_elementwise


def learned(model: nn.Module, recipe: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """The gradients of a loss, dropout drawn from the same seed."""
    Anatomy.of(model).select([recipe]).apply(model)
    model.to(dtype).train()
    torch.manual_seed(1)
    ids = torch.randint(1, WORDS, (4, 24))
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    torch.autograd.backward(loss)
    found = {n: one.grad.clone() for n, one in model.named_parameters() if one.grad is not None}
    model.zero_grad(set_to_none=True)
    return {**found, "loss": loss.detach()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recipe", ["gate-up", "attention", "language"])
@pytest.mark.parametrize("make", [llama, gemma, gpt2, phi3, mixtral])
def test_no_bit_changes(
    make: Callable[[], nn.Module],
    recipe: str,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if make is gpt2 and recipe == "gate-up":
        recipe = "mlp"  # its MLP has no gate
    model = make()
    plain = learned(model, recipe, dtype)
    made: list[torch.Size] = []
    unpack = recomputing._unpack

    def watched(kept: object) -> Tensor:
        made.extend([kept.shape] if isinstance(kept, recomputing._Again) else [])
        return unpack(kept)  # type: ignore[arg-type]

    monkeypatch.setattr(recomputing, "_unpack", watched)
    with recomputing_elementwise():
        again = learned(model, recipe, dtype)
    # GPT-2 multiplies by numbers, and nobody keeps its last product where its MLP is frozen.
    assert made or (make is gpt2 and recipe == "attention")
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def kept_bytes(model: nn.Module, recipe: str, *, recomputed: bool) -> int:
    """What the graph of a loss keeps, parameters left out, each storage once."""
    Anatomy.of(model).select([recipe]).apply(model)
    own = {one.untyped_storage()._cdata for one in model.parameters()}
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> object:
        kept = recomputing._pack(tensor) if recomputed else tensor
        if isinstance(kept, Tensor) and kept.untyped_storage()._cdata not in own:
            held[kept.untyped_storage()._cdata] = kept.untyped_storage().nbytes()
        return kept

    ids = torch.ones(4, 24, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, recomputing._unpack):
        loss = model.train()(input_ids=ids, labels=ids, use_cache=False).loss
    size = sum(held.values())
    torch.autograd.backward(loss)
    return size


@pytest.mark.parametrize("recipe", ["gate-up", "language"])
def test_less_is_kept(recipe: str) -> None:
    model = llama()
    plain = kept_bytes(model, recipe, recomputed=False)
    spare = kept_bytes(model, recipe, recomputed=True)
    one = 4 * 24 * INNER * 4
    results = {"gate-up": 1, "language": 2}[recipe]  # down's input is kept where trained
    assert plain - spare >= LAYERS * results * one


def test_with_checkpointed_layers_the_bits_stay() -> None:
    model = llama()
    plain = learned(model, "language", torch.float32)
    with checkpointed(checkpointable(model, Anatomy.of(model), ())), recomputing_elementwise():
        again = learned(model, "language", torch.float32)
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def test_a_result_that_was_written_over_is_as_it_was() -> None:
    gate = torch.randn(64, 128, requires_grad=True)
    up = torch.randn(64, 128, requires_grad=True)
    expected = torch.autograd.grad((nn.functional.silu(gate) * up).sum(), [gate, up])
    with recomputing_elementwise():
        made = nn.functional.silu(gate)
        loss = (made * up).sum()
        with torch.no_grad():
            made.zero_()
        found = torch.autograd.grad(loss, [gate, up])
    assert all(map(torch.equal, expected, found))


def test_nothing_is_left_behind() -> None:
    """No cycle of graph and hook: without a collector of cycles all of it goes."""
    model = llama()
    Anatomy.of(model).select(["language"]).apply(model)
    ids = torch.ones(4, 24, dtype=torch.long)
    gc.collect()
    gc.disable()
    try:
        with recomputing_elementwise():
            outputs = model.train()(input_ids=ids, labels=ids, use_cache=False)
            logits = weakref.ref(outputs.logits)
            del outputs
        assert logits() is None
    finally:
        gc.enable()
