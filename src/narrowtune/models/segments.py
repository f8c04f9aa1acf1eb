"""Attention over packed samples by segments: what a token may not see is not computed.

A mask over a packed sequence hides what lies in other samples and still computes it. Here the
tokens of each sample attend in a product of their own, to those that stand before them in it:
several samples of like length in one call, without padding outside of it.

`SEGMENTS` is the name of this attention in transformers' `AttentionInterface`. It is PyTorch's
`scaled_dot_product_attention` as transformers calls it ("sdpa"); only where a segment table stands
in the place of a mask of four dimensions, it is called once for each group of segments. Every
model class hands such a mask to its attention layers as it is, and keeps it for those that are run
again by activation checkpointing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import get_layer_types_and_kwargs
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SEGMENTS = "sdpa_segments"  # "sdpa" in it: transformers then asks whether a class supports that
_DTYPE = torch.int8  # no attention mistakes a table for a mask: those are bool or float
_SEEN, _OWN = 1, 2

# Padding segments to one length costs products, a call of their own costs time: as much as so many
# pairs of tokens times the heads' width, forward and backward. Measured on a CPU core; elsewhere
# reckoned, from some 25 launches of 5 us and 50 TFLOP/s.
_CALL = {"cpu": 2**18}
_CALL_ELSEWHERE = 2**28
_REFUSED = ("position_bias", "s_aux")


def segment_table(places: Sequence[Sequence[Sequence[int]]], width: int) -> Tensor:
    """Which tokens each sample sees, and which of them are its own: what stands for a mask.

    Args:
        places: For each row, where the tokens of each sample stand, rising. A token that several
            samples have is the first one's; a sample's own tokens are its last.
        width: Tokens of a row, padding included, which belongs to no sample.

    Returns:
        int8, [rows, 1, samples, width]: 0 not of the sample, 1 seen by it, 2 its own.
    """
    table = torch.zeros(len(places), 1, max(map(len, places)), width, dtype=_DTYPE)
    for row, samples in enumerate(places):
        taken = torch.zeros(width, dtype=torch.bool)
        for number, stand in enumerate(map(torch.tensor, samples)):
            table[row, 0, number, stand] = torch.where(taken[stand], _SEEN, _OWN).to(_DTYPE)
            taken[stand] = True
    return table


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention as "sdpa" computes it; with a segment table, segment by segment.

    Args:
        module: The attention layer; with a table, one of a decoder, with its `config`.
        query: [rows, heads, tokens, width of a head].
        key: The same, with as many heads or fewer.
        value: As `key`.
        attention_mask: A mask, None, or a segment table.
        options: `dropout`, `scaling` and what else classes pass.

    Returns:
        [rows, tokens, heads, width of a head], and no attention weights.

    Raises:
        ValueError: With a table comes what is not computed by segments: a bias of positions, or
            attention sinks.
    """
    if attention_mask is None or attention_mask.dtype != _DTYPE:
        result: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **options
        )
        return result
    if strange := [name for name in _REFUSED if options.get(name) is not None]:
        raise ValueError(f"attention by segments takes no {', '.join(strange)}")
    plan = _plan(attention_mask, module, query)
    parts = (
        _parts(query, plan.queries, [(group.segments, group.queries) for group in plan.groups]),
        _parts(key, plan.keys, [(group.segments, group.keys) for group in plan.groups]),
        _parts(value, plan.keys, [(group.segments, group.keys) for group in plan.groups]),
    )
    found = []
    for group, *three in zip(plan.groups, *parts, strict=True):
        said = options | {"is_causal": group.mask is None}
        found.append(sdpa_attention_forward(module, *three, group.mask, **said)[0].flatten(0, 1))
    joined = torch.cat(found)  # [queries of all groups, heads, width of a head]
    laid = joined if plan.back is None else joined.index_select(0, plan.back)
    return laid.view(query.shape[0], query.shape[2], *laid.shape[1:]), None


AttentionInterface.register(SEGMENTS, attend)
AttentionMaskInterface.register(SEGMENTS, sdpa_mask)


def layer_types(config: Any) -> list[Any]:
    """What kind each layer of a language tower is.

    Args:
        config: Of the tower, or of a model that has it.

    Raises:
        AttributeError: The config doesn't say.
    """
    types: list[Any] = get_layer_types_and_kwargs(config.get_text_config(decoder=True))[0]
    return types


def layer_windows(config: Any) -> list[int]:
    """How far the layers see that see a window only: as many tokens, themselves included."""
    kinds = get_layer_types_and_kwargs(config.get_text_config(decoder=True))[1]
    sizes = [more.get("sliding_window") for more in kinds]
    return [int(size) for size in sizes if size is not None]


def uniform_window(config: Any) -> int | None:
    """How far all layers see, if all see equally far; None if some see everything."""
    found = layer_windows(config)
    same = len(set(found)) == 1 and len(found) == len(layer_types(config))
    return found[0] if same else None


@dataclass(frozen=True)
class _Group:
    """Segments that attend in one call, padded to the longest.

    Attributes:
        segments: How many.
        queries: Query tokens of each.
        keys: Key tokens of each.
        mask: Bool, [segments, 1, queries, keys]; None where the n-th query sees n keys.
    """

    segments: int
    queries: int
    keys: int
    mask: Tensor | None


@dataclass(frozen=True)
class _Plan:
    """How a table is attended to.

    Attributes:
        groups: The calls.
        queries: The token that each query of the groups is; None where they come as they stand.
        keys: The same for the keys.
        back: Which of the groups' queries each token is; None where they come as they stand.
    """

    groups: tuple[_Group, ...]
    queries: Tensor | None
    keys: Tensor | None
    back: Tensor | None


class _Segment(NamedTuple):
    """A sample's own tokens, and all that the last of them sees, itself included; both rising."""

    own: list[int]
    seen: list[int]


# Made at the first layer, read by the others; gone with the batch.
_plans: MutableMapping[Tensor, _Plan] = WeakTensorKeyDictionary()


def _plan(table: Tensor, module: Any, query: Tensor) -> _Plan:
    plan = _plans.get(table)
    if plan is None:
        call = _CALL.get(table.device.type, _CALL_ELSEWHERE) // (query.shape[1] * query.shape[3])
        plan = _planned(table, uniform_window(module.config), call)
        _plans[table] = plan
    return plan


def _planned(table: Tensor, window: int | None, call: int) -> _Plan:
    """The calls for a table, and where their tokens come from and go."""
    tokens, device = table.shape[0] * table.shape[-1], table.device
    queries: list[int] = []
    keys: list[int] = []
    back = [0] * tokens  # padding gets some token's: nobody reads it
    groups = []
    for segments in _grouped(_segments(table.cpu()), window, call):
        most, widest = _most(segments)
        for own, seen in segments:
            for place, token in enumerate(own, start=len(queries)):
                back[token] = place
            queries += own + own[:1] * (most - len(own))
            keys += seen + seen[:1] * (widest - len(seen))
        mask = None if _causal(segments[0], window) else _mask(segments, window).to(device)
        groups.append(_Group(len(segments), most, widest, mask))
    return _Plan(
        tuple(groups),
        _indices(queries, tokens, device),
        _indices(keys, tokens, device),
        _indices(back, len(queries), device),
    )


def _segments(table: Tensor) -> Iterator[_Segment]:
    for row, lines in enumerate(table[:, 0]):
        for line in lines:
            seen = (line.nonzero()[:, 0] + row * table.shape[-1]).tolist()
            if own := int((line == _OWN).sum()):
                yield _Segment(seen[-own:], seen)


def _causal(segment: _Segment, window: int | None) -> bool:
    """Whether it needs no mask: it sees nothing but its own, all of it."""
    own, seen = map(len, segment)
    return own == seen and (window is None or own <= window)


def _grouped(segments: Iterable[_Segment], window: int | None, call: int) -> list[list[_Segment]]:
    """Segments that attend in one call: of one kind, and so alike that padding costs less.

    Long ones first, as sequences are filled: then most come as they stand.
    """
    groups: list[list[_Segment]] = []
    order = ((not _causal(one, window), -len(one.own), -len(one.seen), one) for one in segments)
    for masked, *_, one in sorted(order):
        last = groups[-1] if groups else []
        alike = last and masked is not _causal(last[0], window)
        if alike and _padding([*last, one]) - _padding(last) < call:
            last.append(one)
        else:
            groups.append([one])
    return groups


def _most(segments: Sequence[_Segment]) -> tuple[int, int]:
    """Most own tokens of a segment, and most that one sees."""
    return max(len(one.own) for one in segments), max(len(one.seen) for one in segments)


def _padding(segments: Sequence[_Segment]) -> int:
    """Pairs of tokens that are computed in vain when the segments are padded to one length."""
    queries, keys = _most(segments)
    return len(segments) * queries * keys - sum(len(one.own) * len(one.seen) for one in segments)


def _mask(segments: Sequence[_Segment], window: int | None) -> Tensor:
    """What each query sees, the last own token all: bool, [segments, 1, queries, keys].

    Queries that pad see one key, or their softmax were 0/0.
    """
    queries, keys = _most(segments)
    own, seen = (
        torch.tensor(list(map(len, one)))[:, None, None] for one in zip(*segments, strict=True)
    )
    query, key = torch.arange(queries)[:, None], torch.arange(keys)
    behind = seen - own + query - key  # how many tokens a key stands before its query
    shown = (behind >= 0) & (query < own)
    if window is not None:
        shown &= behind < window
    return (shown | ((query >= own) & (key == 0)))[:, None]


def _indices(tokens: Sequence[int], count: int, device: torch.device) -> Tensor | None:
    """Which of `count` they are, as indices; None where they are all of them in order."""
    alike = len(tokens) == count and all(token == n for n, token in enumerate(tokens))
    return None if alike else torch.tensor(tokens, device=device)


def _parts(
    tensor: Tensor, indices: Tensor | None, shapes: Sequence[tuple[int, int]]
) -> list[Tensor]:
    """Of all tokens those of each group: [segments, heads, tokens of each, width of a head]."""
    tokens = tensor.transpose(1, 2).flatten(0, 1)  # [rows x tokens, heads, width]
    chosen = tokens if indices is None else tokens.index_select(0, indices)
    sizes = [segments * each for segments, each in shapes]
    cut = zip(chosen.split_with_sizes(sizes), shapes, strict=True)
    return [part.view(*shape, *part.shape[1:]).transpose(1, 2) for part, shape in cut]
