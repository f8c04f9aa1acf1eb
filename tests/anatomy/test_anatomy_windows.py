"""Slices train, and nothing else moves: whatever the optimiser, the loop and the file."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_phi3 import tiny_phi3
from torch import Tensor, nn

from narrowtune.anatomy import Anatomy, Region, Selection, release
from narrowtune.anatomy.windows import open_window, plain_tensors

TERMS = ["language.mlp.gate", "language.attn.k"]
GATE_UP, QKV = (
    "model.layers.{}.mlp.gate_up_proj.weight",
    "model.layers.{}.self_attn.qkv_proj.weight",
)
ROWS = {GATE_UP: slice(0, 48), QKV: slice(32, 48)}  # gate; the keys of two heads of eight


def phi(dtype: torch.dtype = torch.float32) -> nn.Module:
    return tiny_phi3().to(dtype)


def select(model: nn.Module) -> Selection:
    return Anatomy.of(model).select(TERMS)


def tokens(seed: int = 0) -> Tensor:
    return torch.randint(3, 96, (2, 9), generator=torch.Generator().manual_seed(seed))


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(tokens()).logits


def loss(model: nn.Module, seed: int = 0) -> Tensor:
    return model(tokens(seed), labels=tokens(seed)).loss


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, Tensor]:
    """Which entries of which tensors differ, as masks."""
    assert before.keys() == after.keys()
    masks = {name: before[name] != after[name] for name in before}
    return {name: mask for name, mask in masks.items() if mask.any()}


def assert_only_the_slices_moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    masks = moved(before, after)
    rows = {form.format(layer): rows for form, rows in ROWS.items() for layer in range(2)}
    assert masks.keys() == rows.keys()
    for name, mask in masks.items():
        assert mask[rows[name]].float().mean() > 0.9
        outside = mask.clone()
        outside[rows[name]] = False
        assert not outside.any()


def past_autograd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """An optimiser that writes as kernels of their own do: autograd's version does not see it."""

    class Sign(torch.optim.Optimizer):
        def step(self, closure: None = None) -> None:  # type: ignore[override]
            for parameter in self.param_groups[0]["params"]:
                if parameter.grad is not None:
                    parameter.data.sub_(1e-2 * parameter.grad.sign())

    return Sign(parameters, {})


OPTIMISERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=1e-2, weight_decay=0.5),
    "fused": lambda ps: torch.optim.AdamW(ps, lr=1e-2, weight_decay=0.5, fused=True),
    "momentum": lambda ps: torch.optim.SGD(ps, lr=1e-2, momentum=0.9, weight_decay=0.5),
    "past autograd": past_autograd,
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_only_the_slices_move_whatever_the_optimiser(name: str) -> None:
    model = phi()
    before, first = state(model), loss(model).item()
    trained = select(model).apply(model)
    optimiser = OPTIMISERS[name]([parameter for _, parameter in trained])
    for step in range(7):  # an odd number of signs never adds up to nothing
        loss(model, step).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    assert_only_the_slices_moved(before, state(model))
    assert loss(model).item() != first


def test_state_exists_for_the_slices_alone() -> None:
    model = phi()
    trained = select(model).apply(model)
    assert [tuple(p.shape) for _, p in trained] == [(16, 32), (48, 32)] * 2
    assert {name for name, _ in trained} == {n.format(i) for n in ROWS for i in range(2)}
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    loss(model).backward()
    optimiser.step()
    moments = [s["exp_avg"].numel() for s in optimiser.state.values()]
    assert sum(moments) == select(model).trained_numel == 2 * (16 + 48) * 32


def test_a_wrong_region_would_show() -> None:
    """The law broken once: with the rows of another slice, the masks are not the slice's."""
    model = phi()
    before = state(model)
    open_window(model, GATE_UP.format(0), Region(0, ((48, 96),)))
    for parameter in model.parameters():
        parameter.requires_grad = True
    loss(model).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    with pytest.raises(AssertionError):
        assert_only_the_slices_moved(before, state(model))


def test_gradients_are_those_of_the_whole_tensor() -> None:
    model, plain = phi(), phi()
    trained = dict(select(model).apply(model))
    loss(model).backward()
    loss(plain).backward()
    for form, rows in ROWS.items():
        whole = plain.get_parameter(form.format(1)).grad
        assert torch.equal(trained[form.format(1)].grad, whole[rows])  # type: ignore[index]


def test_applying_and_releasing_change_no_output() -> None:
    model = phi()
    before, weights = logits(model), state(model)
    names = [name for name, _ in model.named_parameters()]
    select(model).apply(model)
    assert torch.equal(logits(model), before)
    assert not moved(weights, state(model))
    release(model)
    assert torch.equal(logits(model), before)
    assert names == [name for name, _ in model.named_parameters()]
    assert type(model.model.layers[0].mlp.gate_up_proj) is nn.Linear


def test_release_keeps_what_was_trained() -> None:
    model = phi()
    trained = select(model).apply(model)
    with torch.no_grad():
        trained[0][1].add_(1.0)
    release(model)  # no forward since the step
    assert torch.equal(model.get_parameter(trained[0][0])[32:48], trained[0][1][32:48])
    assert moved(state(phi()), state(model)).keys() == {trained[0][0]}


def test_the_anatomy_looks_through_windows() -> None:
    model = phi()
    before = Anatomy.of(model)
    select(model).apply(model)
    after = Anatomy.of(model)
    assert {t.name: t for t in after.parameters} == {t.name: t for t in before.parameters}
    assert after.buffers == before.buffers
    assert {name for name, _ in plain_tensors(model)} == {
        name for name, _ in (*phi().named_parameters(), *phi().named_buffers())
    }


def test_applying_another_selection_ends_the_first() -> None:
    model = phi()
    select(model).apply(model)
    (first, *_), (name, *_) = Anatomy.of(model).select(["gate-up"]).apply(model), ROWS
    assert first[1].shape == (96, 32)
    assert first[0] == name.format(0)


def test_files_hold_whole_tensors_under_plain_names(tmp_path: Path) -> None:
    model = phi()
    trained = select(model).apply(model)
    with torch.no_grad():
        for _, parameter in trained:
            parameter.mul_(1.5)
    after = logits(model)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again), after)
    assert not moved(state(model), state(again))


def test_loading_a_state_reaches_the_trained_entries() -> None:
    model, other = phi(), phi()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    select(model).apply(model)
    report = model.load_state_dict(other.state_dict())
    assert not report.missing_keys and not report.unexpected_keys
    assert torch.equal(logits(model), logits(other))


def test_a_copy_is_a_model_of_its_own() -> None:
    model = phi()
    select(model).apply(model)
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin), logits(model))
    with torch.no_grad():
        dict(twin.named_parameters())[
            "model.layers.0.mlp.gate_up_proj.parametrizations.weight.original"
        ].add_(1.0)
    assert not torch.equal(logits(twin), logits(model))
    assert torch.equal(logits(model), logits(phi()))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_several_forwards_before_a_backward(checkpointing: bool) -> None:
    """As pairs of answers, contrastive losses and looking at the model in between need it."""
    model, plain = phi(), phi()
    trained = select(model).apply(model)
    if checkpointing:
        model.train()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimiser = torch.optim.SGD([p for _, p in trained], lr=0.1)
    for _ in range(2):
        both = loss(model, 0) + loss(model, 1)
        logits(model), model.state_dict(), Anatomy.of(model)
        both.backward()
        loss(model, 2).backward()
        optimiser.step()
        optimiser.zero_grad()
    assert_only_the_slices_moved(state(plain), state(model))


def test_a_backward_through_values_before_a_step_fails_as_for_any_parameter() -> None:
    model = phi()
    optimiser = torch.optim.SGD([p for _, p in select(model).apply(model)], lr=0.1)
    early = loss(model)
    loss(model).backward()
    optimiser.step()
    loss(model)
    with pytest.raises(RuntimeError, match=r"modified .*inplace"):
        early.backward()


def test_a_gradient_holds_the_slices_memory_alone() -> None:
    model = phi()
    trained = select(model).apply(model)
    loss(model).backward()
    for _, parameter in trained:
        assert parameter.grad is not None
        assert parameter.grad.untyped_storage().nbytes() == 4 * parameter.numel()


@pytest.mark.parametrize("prepare", ["as it is", "moved", "copied"])
def test_values_written_past_autograd_are_read_and_saved(prepare: str) -> None:
    """Averages of weights are put in and taken out this way, between forwards."""
    model = phi()
    select(model).apply(model)
    model = copy.deepcopy(model) if prepare == "copied" else model
    if prepare == "moved":
        model.double()
    before = logits(model)
    for name, parameter in model.named_parameters():
        if name.endswith("gate_up_proj.parametrizations.weight.original"):
            parameter.data.zero_()
    assert not torch.equal(logits(model), before)
    assert not state(model)[GATE_UP.format(0)][:48].any()


def test_a_gradient_of_another_shape_is_dropped() -> None:
    model = phi()
    loss(model).backward()
    select(model).apply(model)
    loss(model).backward()
    release(model)
    Anatomy.of(model).select(["gate-up"]).apply(model)
    loss(model).backward()


def test_loading_another_shape_is_refused_and_changes_nothing() -> None:
    model = phi()
    select(model).apply(model)
    wrong = dict(model.state_dict()) | {GATE_UP.format(0): torch.ones(1, 32)}
    with pytest.raises(RuntimeError, match=r"size mismatch for .*mlp\.gate_up_proj"):
        model.load_state_dict(wrong)
    assert not moved(state(phi()), state(model))
    less = {n: t for n, t in model.state_dict().items() if n != GATE_UP.format(0)}
    assert model.load_state_dict(less, strict=False).missing_keys == [GATE_UP.format(0)]


def test_windows_add_no_buffers() -> None:
    """DistributedDataParallel would send them around at every forward."""
    model = phi()
    names = [name for name, _ in model.named_buffers()]
    select(model).apply(model)
    assert [name for name, _ in model.named_buffers()] == names


def test_moving_the_model_keeps_the_window() -> None:
    model = phi()
    select(model).apply(model)
    model.to(torch.float64)
    loss(model).backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    assert_only_the_slices_moved(state(phi(torch.float64)), state(model))


def test_slices_of_a_tensor_that_layers_share() -> None:
    """One window for both layers: they read, learn and are saved as one tensor, like before."""
    model, whole = _sharing(), _sharing()
    before = state(model)
    anatomy = Anatomy.of(model)
    (trained,) = anatomy.select(["language.mlp.gate"]).apply(model)
    assert {t.tied_to for t in Anatomy.of(model).parameters} == {None, trained[0]}
    loss(model).backward()
    loss(whole).backward()
    assert torch.equal(trained[1].grad, whole.get_parameter(trained[0]).grad[:48])  # type: ignore[index]
    torch.optim.SGD([trained[1]], lr=0.1).step()
    second = trained[0].replace("layers.0", "layers.1")
    assert moved(before, state(model)).keys() == {trained[0], second}
    after = logits(model)
    assert not torch.equal(after, logits(whole))
    release(model)
    assert torch.equal(logits(model), after)
    assert model.get_parameter(trained[0]) is model.get_parameter(second)
    assert model.get_parameter(second).shape == (96, 32)


def _sharing() -> nn.Module:
    model = phi()
    first, second = (layer.mlp.gate_up_proj for layer in model.model.layers)
    second.weight = first.weight
    return model


def test_a_model_without_weights_can_be_prepared() -> None:
    model = phi().to("meta")
    assert {p.shape for _, p in select(model).apply(model)} == {(16, 32), (48, 32)}
    release(model)
    assert {tuple(p.shape) for p in model.parameters()} == {
        tuple(p.shape) for p in phi().parameters()
    }
