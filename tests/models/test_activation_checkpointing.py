"""Checkpointed layers give the same bits, and only those that a gradient passes are chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from tiny_phi3 import TOKENS, tiny_phi3
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from narrowtune.anatomy import Anatomy
from narrowtune.data.batching import Batch, collate
from narrowtune.data.encoding import Encoded, encode
from narrowtune.models.activation_checkpointing import (
    checkpointable,
    checkpointed,
    layers_problem,
)
from narrowtune.models.loading import load_model
from narrowtune.models.processing import Processing, load_processing
from narrowtune.runner.frozen import frozen_towers_without_gradient
from narrowtune.training.loop import answer_loss

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip


def llama() -> nn.Module:
    return LlamaForCausalLM(LlamaConfig(**SIZES, **TOKENS, attention_dropout=0.2))


def windowed() -> nn.Module:
    config = Qwen2Config(
        **SIZES, **TOKENS, use_sliding_window=True, sliding_window=4, max_window_layers=2
    )
    return Qwen2ForCausalLM(config)


def mixtral() -> nn.Module:
    config = MixtralConfig(**SIZES, **TOKENS, num_local_experts=4, num_experts_per_tok=2)
    return MixtralForCausalLM(config)


def gpt2() -> nn.Module:
    """With dropout everywhere, as its config has it."""
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=4, n_head=4, **TOKENS))


TEXT = [llama, windowed, mixtral, gpt2, tiny_phi3]


@contextmanager
def counting_forwards(model: nn.Module) -> Iterator[Counter[str]]:
    """How often each module's own forward begins, while the context lasts."""
    found: Counter[str] = Counter()

    def counted(name: str) -> Callable[..., None]:
        return lambda *_: found.update([name])

    hooks = [
        module.register_forward_pre_hook(counted(name)) for name, module in model.named_modules()
    ]
    yield found
    for hook in hooks:
        hook.remove()


def gradients(
    model: nn.Module, trained: list[str], loss: Callable[[], Tensor], checkpoints: bool
) -> tuple[float, dict[str, Tensor]]:
    """The loss and what comes of it at every trained parameter, from the same random numbers."""
    torch.manual_seed(3)
    anatomy = Anatomy.of(model)
    selection = anatomy.select(trained)
    named = selection.apply(model.train())
    towers = {tensor.tower for tensor in selection.tensors}
    layers = checkpointable(model, anatomy, towers) if checkpoints else []
    with frozen_towers_without_gradient(model, anatomy, towers), checkpointed(layers):
        value = loss()
        torch.autograd.backward(value)
    found = {name: one.grad.clone() for name, one in named if one.grad is not None}
    model.zero_grad(set_to_none=True)
    return float(value.detach()), found


def same(one: tuple[float, dict[str, Tensor]], other: tuple[float, dict[str, Tensor]]) -> bool:
    (loss, grads), (loss_2, grads_2) = one, other
    return (
        loss == loss_2
        and grads.keys() == grads_2.keys()
        and all(torch.equal(grads[name], grads_2[name]) for name in grads)
    )


@pytest.mark.parametrize("make", TEXT, ids=lambda make: make.__name__)
@pytest.mark.parametrize("trained", ["mlp", "full"])
def test_text_models_give_the_same_bits(make: Callable[[], nn.Module], trained: str) -> None:
    torch.manual_seed(0)
    model = make()
    ids = torch.randint(0, 60, (3, 12))

    def loss() -> Tensor:
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    plain, again = (gradients(model, [trained], loss, checkpoints) for checkpoints in (False, True))
    assert plain[1] and same(plain, again)


def test_other_random_numbers_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law of the test above is broken once, to see that it can fail."""
    forgetful = partial(checkpoint, preserve_rng_state=False)
    monkeypatch.setattr("narrowtune.models.activation_checkpointing.checkpoint", forgetful)
    model, ids = llama(), torch.randint(0, 60, (3, 12))

    def loss() -> Tensor:
        value: Tensor = model(input_ids=ids, labels=ids, use_cache=False).loss
        return value

    plain, again = (gradients(model, ["mlp"], loss, checkpoints) for checkpoints in (False, True))
    assert not same(plain, again)


@pytest.fixture(params=["pico-qwen", "pico-llava"])
def seeing(request: pytest.FixtureRequest) -> tuple[nn.Module, Processing]:
    return load_model(request.param, device="cpu", dtype="float32"), load_processing(request.param)


def shown(rows: list[Encoded], processing: Processing) -> Batch:
    fresh = [encode(row.example, processing) for row in rows[:4]]
    return collate(fresh, processing, padding_side="right")


@pytest.mark.parametrize("trained", ["gate-up", "vision", "language.attn.q[2:]"])
def test_image_models_give_the_same_bits(
    seeing: tuple[nn.Module, Processing], counting: list[Encoded], trained: str
) -> None:
    model, processing = seeing
    batch = shown(counting, processing)
    plain, again = (
        gradients(model, [trained], lambda: answer_loss(model, batch), checkpoints)
        for checkpoints in (False, True)
    )
    assert plain[1] and same(plain, again)


def test_only_what_a_gradient_passes_runs_again(
    seeing: tuple[nn.Module, Processing], counting: list[Encoded]
) -> None:
    """Of the language tower all layers but the last, and of a frozen vision tower nothing."""
    model, processing = seeing
    batch = shown(counting, processing)
    with counting_forwards(model) as ran:
        gradients(model, ["gate-up"], lambda: answer_loss(model, batch), True)
    layers = [ran[f"model.language_model.layers.{n}.mlp"] for n in range(4)]
    assert layers == [2, 2, 2, 1]
    vision = [count for name, count in ran.items() if "visual" in name or "vision" in name]
    assert vision and set(vision) == {1}


def test_a_trained_vision_tower_is_checkpointed_too(
    seeing: tuple[nn.Module, Processing], counting: list[Encoded]
) -> None:
    model, processing = seeing
    batch = shown(counting, processing)
    with counting_forwards(model) as ran:
        gradients(model, ["vision"], lambda: answer_loss(model, batch), True)
    blocks = [count for name, count in ran.items() if name.endswith(("blocks.0.mlp", "s.0.mlp"))]
    assert blocks and set(blocks) == {2}


def test_nothing_below_the_trained_layers_runs_again(
    counting: list[Encoded], processing: Processing
) -> None:
    """Where no gradient is wanted nothing is kept, so nothing has to run again."""
    model = load_model("pico-qwen", device="cpu", dtype="float32")
    batch = shown(counting, processing)
    with counting_forwards(model) as ran:
        gradients(model, ["language.mlp.gate[2:]"], lambda: answer_loss(model, batch), True)
    assert [ran[f"model.language_model.layers.{n}.mlp"] for n in range(4)] == [1, 1, 2, 1]


def test_layers_are_left_as_they_were_found() -> None:
    model = llama().train()
    layers = checkpointable(model, Anatomy.of(model), ())
    assert len(layers) == 3
    mark = object()
    layers[0].gradient_checkpointing = True
    layers[0]._gradient_checkpointing_func = mark
    before = [vars(layer).copy() for layer in layers]
    with pytest.raises(RuntimeError, match="broken off"), checkpointed(layers):
        assert all(layer.gradient_checkpointing for layer in layers)
        assert layers[0]._gradient_checkpointing_func is not mark
        raise RuntimeError("broken off")
    assert [vars(layer) for layer in layers] == before


class Handmade(nn.Module):
    """Blocks of one's own, which know nothing of checkpointing."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleDict({"mlp": nn.Linear(4, 4)}) for _ in range(3))


def test_a_class_without_such_layers_is_told() -> None:
    model = Handmade()
    anatomy = Anatomy.of(model)
    assert anatomy.depth("language") == 3 and checkpointable(model, anatomy, ()) == []
    assert "Handmade can't be told" in str(layers_problem(model, anatomy))
    found = llama()
    assert layers_problem(found, Anatomy.of(found)) is None
