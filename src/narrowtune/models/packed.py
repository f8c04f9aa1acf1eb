"""Masks and positions for sequences in which several samples lie, and which models take them.

A model that is told both reads each sample as if it were alone: attention sees only what the mask
shows, and angles come from the positions. Layers that carry something from token to token (a
recurrent state, a convolution) would carry it from one sample into the next; they are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from narrowtune.models.prompt_cache import steady_length, stored_tensors_kept, takes_positions
from narrowtune.models.quantized_linear import compute_dtype
from narrowtune.models.segments import (
    SEGMENTS,
    layer_types,
    layer_windows,
    segment_table,
    uniform_window,
)

# Kinds of attention that take a mask of four dimensions, or what stands for one, as it stands.
_MASKED = ("eager", "sdpa", SEGMENTS)
# Kinds of layers that see what their mask shows, or (`dummy`) carry nothing of their own.
_SEEING = {"full_attention", "sliding_attention", "dummy"}


def packing_problem(model: Any) -> str | None:
    """Why several samples cannot lie in one sequence of this model, read off its config."""
    kind = type(model).__name__
    if not takes_positions(model):
        return f"{kind} cannot be told positions"
    if (attention := _attention(model)) not in _MASKED:
        return (
            f"the attention {attention!r} takes no mask of one's own; load the model with"
            " attn_implementation='sdpa'"
        )
    try:
        others = sorted({str(one) for one in layer_types(model.config)} - _SEEING)
    except AttributeError as error:
        return f"what kinds of layers it has is not to be read off its config: {error}"
    if others:
        return f"{kind} has layers of the type {', '.join(others)}, which mix what they read"
    return None


def longest_packed(model: Any) -> int | None:
    """Tokens of a sample up to which packing changes nothing; None for no such end.

    Layers that see a window take the same mask as the others, unless all see the same window; and
    some rotary embeddings choose their angles by the longest sample of the call.
    """
    config = model.config
    ends = [] if uniform_window(config) is not None else layer_windows(config)
    steady = steady_length(model)
    return min([*ends, *([] if steady is None else [steady])], default=None)


def block_mask(model: Any, places: Sequence[Sequence[Sequence[int]]], width: int) -> Tensor:
    """The mask that lets each token see itself and what stands before it in its own samples.

    Args:
        model: Whose attention it is for; a window that all its layers see through counts.
        places: For each row, where the tokens of each sample stand, rising.
        width: Tokens of a row, padding included; padding sees itself, or its softmax were 0/0.

    Returns:
        [rows, 1, width, width]: bool (True: seen) for sdpa; for eager what is added to the scores.
        For attention by segments, its table.
    """
    if by_segments(model):
        return segment_table(places, width)
    window = uniform_window(model.config)
    seen = torch.eye(width, dtype=torch.bool).repeat(len(places), 1, 1)
    for row, samples in enumerate(places):
        for stand in map(torch.tensor, samples):
            own = torch.ones(len(stand), len(stand), dtype=torch.bool).tril()
            if window is not None:
                own = own.triu(1 - window)
            seen[row, stand[:, None], stand] = own
    if _attention(model) == "sdpa":
        return seen[:, None]
    dtype = compute_dtype(model)
    hidden = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
    return hidden[:, None]


def packed_positions(model: Any, alone: Mapping[str, Tensor], at: tuple[Tensor, Tensor]) -> Tensor:
    """The positions that the model's class gives each sample alone, laid out as they are packed.

    Args:
        model: The class knows on how many axes its image tokens have positions.
        alone: One sample of each tree, right-padded, as keyword arguments of the forward. Samples
            of a tree part behind their images, and text goes on by ones: so a token's position
            is that of the token as far into another sample of its tree.
        at: The tree that each packed token is of, and how many tokens of its sample stand before
            it: both [rows, width].

    Returns:
        [rows, width], or with an axis before it for families of several.
    """
    with stored_tensors_kept(model):
        positions: Tensor = model._prepare_position_ids_for_generation(
            alone["input_ids"], dict(alone)
        )
    tree, depth = at
    return positions[..., tree, depth]


@contextmanager
def attending_by_segments(model: nn.Module) -> Iterator[None]:
    """Let the language tower take packed samples without a mask while the context lasts.

    Whatever else it is given it computes as before, to the bit: batches of another kind,
    generation; and other towers are not touched. A model that cannot take packed samples, does not
    attend by "sdpa", or whose class does not look its attention up, stays as it is. The backward
    pass belongs inside: activation checkpointing runs layers again there.

    Args:
        model: A transformers model, as it is or in an adapter.
    """
    towers = _attending(base_model(model))
    for tower in towers:
        tower.set_attn_implementation(SEGMENTS)
    try:
        yield
    finally:
        for tower in towers:
            tower.set_attn_implementation("sdpa")


def _attending(model: Any) -> list[Any]:
    """The language tower, if it may attend otherwise: all models that share its config."""
    if packing_problem(model) is not None or _attention(model) != "sdpa":
        return []
    text = model.config.get_text_config(decoder=True)
    towers = [
        one
        for one in model.modules()
        if getattr(one, "config", None) is text and hasattr(one, "set_attn_implementation")
    ]
    return towers if all(one._can_set_attn_implementation() for one in towers) else []


def by_segments(model: Any) -> bool:
    """Whether it computes nothing of what a token may not see (`attending_by_segments`)."""
    return _attention(model) == SEGMENTS


def _attention(model: Any) -> str:
    return str(model.config.get_text_config()._attn_implementation)


def base_model(model: nn.Module) -> nn.Module:
    """The model itself, out of an adapter's wrapping."""
    unwrap = getattr(model, "get_base_model", None)
    inner: nn.Module = unwrap() if callable(unwrap) else model
    return inner
