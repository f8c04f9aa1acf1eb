"""Prompts read once by a model, then continued in several ways each.

What a model keeps of a prompt (the keys and values of its attention layers) is computed once and
read by all that follows it. Only attention layers can be shared like that: a recurrent state, or a
cache that a model class made for itself, is refused.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import (
    Cache,
    DummyLayer,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
)

from narrowtune.models.supervised import output_at

# Exactly these: subclasses keep more (compressed keys, convolution states) than keys and values.
_ATTENTION = (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer)


class ReadPrompts:
    """A batch of prompts that a model has read.

    Args:
        model: A transformers model with an output head, in evaluation mode.
        inputs: Left-padded keyword arguments of its forward, images included. Left, so that what
            follows stands directly behind each prompt: windows and relative positions count places.

    Raises:
        TypeError: What the model keeps of a prompt cannot be shared.
    """

    def __init__(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> None:
        self.model = model
        self.mask = inputs["attention_mask"]  # [prompts, tokens]
        self.positions = _positions(model, inputs)
        known = {} if self.positions is None else {"position_ids": self.positions}
        nowhere = torch.zeros_like(self.mask, dtype=torch.bool)
        output = output_at(model, inputs, nowhere, use_cache=True, **known)
        self.cache = _shareable(getattr(output, "past_key_values", None), self.mask.shape[1])

    def logits(self, prompts: Tensor, ids: Tensor, real: Tensor, predicts: Tensor) -> Tensor:
        """Logits of continuations where `predicts` is True, in row-major order.

        Args:
            prompts: Which prompt each row continues: [rows].
            ids: Right-padded tokens that follow: [rows, tokens].
            real: Bool, [rows, tokens]; False on padding.
            predicts: Bool, [rows, tokens]; True where the next token's logits are wanted.

        Returns:
            Float, [number of True in `predicts`, vocabulary].
        """
        branched = _branched(self.cache, prompts)
        logits: Tensor = self._read(branched, (prompts, ids, real), predicts).logits
        return logits.reshape(-1, logits.shape[-1])

    def prefilled(
        self, prompts: Tensor, ids: Tensor, real: Tensor, *, last: bool = False
    ) -> dict[str, Any]:
        """What `generate` goes on with where longer prompts were read, all but their last token.

        Row by row the padding comes first then, and nothing stands between a prompt's tokens: so
        all that counts places finds what it would find behind prompts that were read whole.

        Args:
            prompts: Which prompt each row continues: [rows].
            ids: Right-padded tokens that follow, the last one left out: [rows, tokens].
            real: Bool, [rows, tokens]; False on padding.
            last: Nothing goes on from these prompts afterwards: they are forgotten layer by layer.

        Returns:
            The cache and, where the model takes them, positions, the last token's included.

        Raises:
            TypeError: Some layer keeps other tokens than there are.
        """
        one = torch.ones_like(prompts, dtype=torch.bool)[:, None]
        read = torch.cat([self.mask[prompts].bool(), real, one], dim=1)
        # Padding first, all else in its order; as wide as the longest row.
        order = read.long().argsort(dim=1, stable=True)[:, -int(read.sum(dim=1).max()) :]
        branched = _branched(self.cache, prompts)
        if ids.shape[1]:
            self._read(branched, (prompts, ids, real), torch.zeros_like(real))
        for number, layer in enumerate(self.cache.layers):
            added = branched.layers[number].added
            branched.layers[number] = _grown(layer, added, (prompts, order[:, :-1]))
            if last:
                layer.keys = layer.values = None
        if self.positions is None:
            return {"past_key_values": branched}
        before = self.positions.index_select(-2, prompts)
        after = self._following(prompts, torch.cat([real, one], dim=1))
        positions = torch.cat([before, after], dim=-1)
        positions = positions.gather(-1, order.expand(*positions.shape[:-1], -1))
        return {"past_key_values": branched, "position_ids": positions}

    def _read(
        self, branched: Cache, following: tuple[Tensor, Tensor, Tensor], predicts: Tensor
    ) -> Any:
        """The model's output for what follows, with logits where `predicts` is True."""
        prompts, ids, real = following
        mask = torch.cat([self.mask[prompts], real.to(self.mask.dtype)], dim=1)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self.positions is not None:
            inputs["position_ids"] = self._following(prompts, real)
        return output_at(self.model, inputs, predicts, use_cache=True, past_key_values=branched)

    def _following(self, prompts: Tensor, real: Tensor) -> Tensor:
        """Positions of what follows: one more each, on every axis, 0 on padding.

        As `generate` counts on. Padding could else run past a table of learned positions.
        """
        assert self.positions is not None
        last = self.positions.index_select(-2, prompts)[..., -1:]  # [..., rows, 1]
        return (last + real.cumsum(dim=1)).masked_fill(~real, 0)


@contextmanager
def stored_tensors_kept(model: nn.Module) -> Iterator[None]:
    """Put back afterwards what forward passes store on modules beside buffers (rope_deltas)."""
    found = [
        (module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if not name.startswith("_") and (value is None or isinstance(value, Tensor))
    ]
    try:
        yield
    finally:
        for module, name, value in found:
            setattr(module, name, value)


def takes_positions(model: nn.Module) -> bool:
    """Whether the model can be told the positions of left-padded prompts."""
    told = hasattr(model, "_prepare_position_ids_for_generation")
    return told and "position_ids" in inspect.signature(model.forward).parameters


def steady_length(model: Any) -> int | None:
    """Tokens up to which a model turns a position by the same angles whatever stands behind it.

    Beyond, scaled rotary embeddings (`longrope`, `dynamic`) choose the angles by the length of the
    call, so that keys kept of a prompt differ from those of the whole sequence. None: no such end.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    changing = [one for one in kinds if _by_length(str(one.get("rope_type", "")))]
    most = getattr(config, "max_position_embeddings", None) or 0
    return min(
        (one.get("original_max_position_embeddings", most) for one in changing), default=None
    )


def _by_length(rope_type: str) -> bool:
    return rope_type == "longrope" or "dynamic" in rope_type


def _branched(cache: Cache, prompts: Tensor) -> Cache:
    """The cache as rows that continue the prompts see it; the prompts' own stays untouched."""
    branched = copy.copy(cache)
    branched.layers = [_branched_layer(layer, prompts) for layer in cache.layers]
    return branched


def _branched_layer(layer: Any, prompts: Tensor) -> Any:
    """A layer that lays its keys and values out for all rows only while it attends.

    So one layer's are in memory at a time. Of its own it keeps what is `added`.
    """
    added: list[Tensor] = []

    def update(keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        added.extend((keys, values))
        rows = copy.copy(layer)
        rows.batch_select_indices(prompts)
        both: tuple[Tensor, Tensor] = rows.update(keys, values, *args, **kwargs)
        return both

    branched = copy.copy(layer)
    branched.update, branched.added = update, added
    return branched


def _grown(layer: Any, added: list[Tensor], where: tuple[Tensor, Tensor]) -> Any:
    """A layer that holds the prompts' keys and values and the added ones, row by row.

    Args:
        layer: The prompts' own.
        added: The rows' own keys and values; nothing where they added none.
        where: Which prompt each row continues, [rows], and which of both layers' tokens it has at
            each place, [rows, tokens].
    """
    if type(layer) is DummyLayer:
        return layer
    prompts, order = where
    grown = copy.copy(layer)
    tokens = order.shape[1]
    if isinstance(layer, DynamicSlidingWindowLayer):
        if tokens >= layer.sliding_window:
            raise TypeError(f"{tokens} tokens do not fit into a window of {layer.sliding_window}")
        grown.cumulative_length = tokens
    kept = zip((layer.keys, layer.values), added or (None, None), strict=True)
    grown.keys, grown.values = (_ordered(old[prompts], new, order) for old, new in kept)
    return grown


def _ordered(old: Tensor, new: Tensor | None, order: Tensor) -> Tensor:
    """Tokens of both, in this order: [rows, heads, tokens, size]."""
    both = old if new is None else torch.cat([old, new], dim=-2)
    if both.shape[2] <= int(order.max()):  # on a GPU no index may be out of range
        raise TypeError(f"a layer keeps {both.shape[2]} tokens, and there are more")
    place = order[:, None, :, None].expand(-1, both.shape[1], -1, both.shape[3])
    return both.gather(2, place)


def _shareable(cache: Any, tokens: int) -> Cache:
    """The cache, if it holds all `tokens` of the prompts as keys and values and nothing else."""
    if type(cache) is not DynamicCache:
        raise TypeError(f"what the model keeps of a prompt is a {type(cache).__name__}")
    strange = {type(layer).__name__ for layer in cache.layers if type(layer) not in _ATTENTION}
    if strange or cache.get_seq_length() != tokens:
        raise TypeError(f"the model's cache cannot be shared: {', '.join(sorted(strange))}")
    return cache


def _positions(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor | None:
    """The positions that `generate` would give left-padded prompts: [..., prompts, tokens].

    None for a model that takes none: it tells them from the mask, or has only relative ones.
    Families that place image tokens on several axes override the method asked here.
    """
    if not takes_positions(model):
        return None
    make: Any = model._prepare_position_ids_for_generation
    positions: Tensor = make(inputs["input_ids"], dict(inputs))
    return positions
