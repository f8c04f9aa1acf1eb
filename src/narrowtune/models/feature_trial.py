"""Whether a model's image features can be asked for instead of computed, tried on a real batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from narrowtune.models.feature_parts import Unfit, apart, attributes, plan_of
from narrowtune.models.features import (
    METHOD,
    Encoder,
    Feed,
    Group,
    Layout,
    Sight,
    encoder_of,
    tensors_of,
)
from narrowtune.models.generation import evaluating
from narrowtune.models.prompt_cache import stored_tensors_kept
from narrowtune.models.supervised import supervised_logits

# Every layer's states, in most classes' outputs and read by few: kept only where they are read.
_LARGE = ("hidden_states", "attentions", "last_hidden_state")
_READ_BY_SOME = _LARGE[-1:]

MakeBatch = Callable[[Feed | None], Mapping[str, Tensor]]
"""A left-padded batch of some samples with images, made with a feed or with pixels."""


def try_features(
    model: nn.Module, groups: Sequence[Group], make: MakeBatch, sight: Sight
) -> Layout:
    """How the model's features can be handed to it.

    Args:
        model: With its weights; left as it is, random numbers too.
        groups: The images of each sample in the batch.
        make: Makes that batch.
        sight: How images are known and seen.

    Raises:
        Unfit: They can't, and why.
    """
    encoder = encoder_of(model)
    if encoder is None:
        raise Unfit("its class has no get_image_features")
    device = next(model.parameters()).device
    plain = {name: one.to(device) for name, one in make(None).items()}
    if not isinstance(plain.get(encoder.pixels), Tensor):
        raise Unfit(f"its processor gives no {encoder.pixels} as one tensor")
    with torch.random.fork_rng(_devices(device)), evaluating(model), stored_tensors_kept(model):
        try:
            expected, call = _watched(model, encoder, plain)
            layout = _agreeing(model, encoder, (call, expected), groups, make, sight)
            _check_steady(model, encoder, call)
            return _joinable(encoder, layout, groups, sight, call)
        except Unfit:
            raise
        except Exception as error:  # whatever a class raises that does not go along
            raise Unfit(f"{type(error).__name__}: {error}") from error


@dataclass
class _Call:
    """One call of an encoder: its arguments, its output, what it computed with."""

    arguments: dict[str, Any]
    output: Any
    parts: frozenset[str]


class _Reads(TorchFunctionMode):
    """Notes the tensors that anything is computed from."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs or {}))
        self.seen |= {id(one) for one in leaves if isinstance(one, Tensor)}
        return func(*args, **(kwargs or {}))


def _watched(model: nn.Module, encoder: Encoder, inputs: Mapping[str, Tensor]) -> tuple[Any, _Call]:
    """The model's own answer, and how it asked its encoder for it."""
    calls: list[_Call] = []

    @wraps(encoder.answer)  # `generate` reads its arguments' names
    def watch(*args: Any, **kwargs: Any) -> Any:
        with _Reads() as reads:
            output = encoder.answer(*args, **kwargs)
        calls.append(_Call(encoder.named(args, kwargs), output, _parts(encoder.module, reads.seen)))
        return output

    setattr(encoder.module, METHOD, watch)
    try:
        expected = _logits(model, inputs)
    finally:
        delattr(encoder.module, METHOD)
    if not calls:
        raise Unfit("a forward pass does not call its get_image_features")
    if not calls[0].parts:
        raise Unfit("its get_image_features computes with no weights")
    return expected, calls[0]


def _parts(module: nn.Module, seen: set[int]) -> frozenset[str]:
    """Children and own tensors that were read; of a child all counts, as experts are chosen."""
    named = tensors_of(module).items()
    return frozenset(name.partition(".")[0] for name, tensor in named if id(tensor) in seen)


def _logits(model: nn.Module, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """What a forward pass expects at the end; with it, what `generate` does, where there is one."""
    last = torch.zeros_like(inputs["attention_mask"], dtype=torch.bool)
    last[:, -1] = True
    found = [supervised_logits(model, inputs, last)]
    generator: Any = model
    if hasattr(generator, "generate"):
        said = generator.generate(
            **inputs,
            max_new_tokens=2,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        found += said.logits
    return found


def _agreeing(
    model: nn.Module,
    encoder: Encoder,
    own: tuple[_Call, list[Tensor]],
    groups: Sequence[Group],
    make: MakeBatch,
    sight: Sight,
) -> Layout:
    """The layout with the fewest names with which the model says what it says of pixels."""
    call, expected = own
    said = attributes(call.output)
    small = tuple(name for name, value in said.items() if name not in _LARGE and _keepable(value))
    for names in (small, (*small, *_READ_BY_SOME)):
        layout = Layout(type(call.output), tuple(one for one in names if one in said), call.parts)
        feed = Feed(encoder, layout, sight, _Brief(), "trial")
        fed = make(feed)
        device = next(model.parameters()).device
        with feed.feeding():
            try:
                found = _logits(model, {name: one.to(device) for name, one in fed.items()})
            except (TypeError, AttributeError, KeyError):
                continue  # it reads what was left out
        if len(found) == len(expected) and all(map(torch.equal, found, expected)):
            return layout
    raise Unfit("with its features handed back it does not say the same, bit by bit")


def _keepable(value: Any) -> bool:
    try:
        apart(value, {})
    except Unfit:
        return False
    return True


def _check_steady(model: nn.Module, encoder: Encoder, call: _Call) -> None:
    """Refuse an encoder that is not a function of its pixels while the model is taught.

    Raises:
        Unfit: It draws random numbers, changes a buffer, or says something else than otherwise.
    """
    before = {name: one.clone() for name, one in encoder.module.named_buffers()}
    state = torch.get_rng_state()
    model.train()
    try:
        now = encoder.answer(**call.arguments)
    finally:
        model.eval()
    moved = [name for name, one in encoder.module.named_buffers() if not _same(one, before[name])]
    with torch.no_grad():
        for name, one in encoder.module.named_buffers():
            one.copy_(before[name])
    drawn = not torch.equal(state, torch.get_rng_state())
    if moved or drawn or not _alike(call.output, now):
        raise Unfit("in training it draws at random or changes as it goes (dropout, say)")


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _alike(one: Any, other: Any) -> bool:
    return all(map(_same, *(_tensors(attributes(output)) for output in (one, other))))


def _tensors(values: Mapping[str, Any]) -> list[Tensor]:
    found: dict[str, Tensor] = {}
    for value in values.values():
        if _keepable(value):
            apart(value, found)
    return list(found.values())


def _joinable(
    encoder: Encoder, layout: Layout, groups: Sequence[Group], sight: Sight, call: _Call
) -> Layout:
    """The layout with how outputs of single samples are joined, or why they can't be."""
    try:
        return replace(layout, plans=_plans(encoder, layout, groups, sight, call))
    except Exception as error:  # as above; together they can still be encoded
        return replace(layout, alone=str(error))


def _plans(
    encoder: Encoder, layout: Layout, groups: Sequence[Group], sight: Sight, call: _Call
) -> dict[str, Any]:
    shown = [group for group in groups if group][:2]
    if len(shown) < 2:
        raise Unfit("no two samples with images were there to try it")
    device = next(encoder.module.parameters()).device
    said, seen = [], []
    for part in ([shown[0]], [shown[1]], shown):
        pixels = sight.pixels(part)
        said.append(attributes(encoder.answer(**call.arguments | encoder.seen(pixels, device))))
        seen.append({name: one for name, one in pixels.items() if name != encoder.pixels})
    for name, both in seen[2].items():
        if not torch.equal(torch.cat([seen[0][name], seen[1][name]]), both):
            raise Unfit(f"its processor's {name} of two samples is not that of each, in turn")
    return {name: plan_of(*(one[name] for one in said)) for name in layout.read}


@dataclass
class _Brief:
    """A store for one batch."""

    def get(self, key: str) -> Any:
        return None

    def keep(self, key: str, tensors: Mapping[str, Tensor], told: str) -> None:
        pass

    def takes(self, key: str) -> bool:
        return True


def _devices(device: torch.device) -> list[int]:
    return [device.index or 0] if device.type == "cuda" else []
