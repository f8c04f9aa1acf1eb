"""Prompts that start alike, answered with their common start read once.

A start's keys and values are computed once and laid out for each prompt, which goes on from them;
`generate` then finds what it would have left behind itself after all of a prompt but its last
token. Whether a class of models can do that is no list of families: a few prompts of the task are
answered both ways, and what is expected for their first tokens must be the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from narrowtune.models.correcting import Correction
from narrowtune.models.prompt_cache import (
    ReadPrompts,
    steady_length,
    stored_tensors_kept,
    takes_positions,
)

TRIED_TOKENS = 3
"""New tokens of each answer that a trial compares."""


class Prompts(Protocol):
    """A left-padded batch of prompts."""

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Keyword arguments of the model's forward."""

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""


class Branches(Prompts, Protocol):
    """Prompts of a batch without images, by the starts that they go on from."""

    @property
    def of(self) -> Tensor:
        """Each prompt's start, by its row in the batch of starts: [rows]."""

    @property
    def ids(self) -> Tensor:
        """What follows it, the last token left out, right-padded: [rows, tokens]."""

    @property
    def real(self) -> Tensor:
        """Bool, [rows, tokens]; False on padding."""


class Starts(Protocol):
    """Batches of starts, each with the prompts that go on from them."""

    tried: dict[str, bool]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""

    def __iter__(self) -> Iterator[tuple[Prompts, Sequence[tuple[Sequence[int], Branches]]]]: ...


class Sharing(Protocol):
    """Prompts whose common starts are worth reading once."""

    @property
    def starts(self) -> Starts | None:
        """The same prompts by their starts; None where it does not pay."""

    def trial(self) -> tuple[Iterable[tuple[Sequence[int], Prompts]], Starts]:
        """A few of them, whole and by their starts."""


Say = Callable[[Any, Sequence[Correction]], list[list[int]]]
"""Gives a batch's new tokens, row by row."""


@dataclass(frozen=True)
class GoingOn:
    """A batch of prompts whose starts were read.

    Attributes:
        read: The starts.
        rows: What goes on from them.
        last: Nothing else does.
    """

    read: ReadPrompts
    rows: Branches
    last: bool

    @property
    def inputs(self) -> dict[str, Any]:
        """Keyword arguments of `generate`: all but the last token of each prompt is read now.

        Not before, and not kept: the keys and values of one batch are all that is in memory.
        """
        rows = self.rows
        known = self.read.prefilled(rows.of, rows.ids, rows.real, last=self.last)
        return {**rows.inputs, **known}

    def to(self, device: torch.device | str) -> GoingOn:
        """Itself: it is where the model is."""
        return self


def prefilled(model: nn.Module, starts: Starts) -> Iterator[tuple[Sequence[int], GoingOn]]:
    """The prompts in batches that `generate` goes on from, each with the places of its rows.

    Raises:
        TypeError: What the model keeps of a prompt cannot be shared.
    """
    device = next(model.parameters()).device
    with stored_tensors_kept(model):
        for batch, parts in starts:
            read = ReadPrompts(model, batch.to(device).inputs)
            for number, (places, part) in enumerate(parts, 1):
                yield places, GoingOn(read, part.to(device), last=number == len(parts))


def can_begin_once(model: nn.Module, prompts: Sharing, new_tokens: int, say: Say) -> bool:
    """Whether a model's answers may be had by common starts, tried once for each kind of model.

    Args:
        model: In evaluation mode.
        prompts: With common starts.
        new_tokens: The longest answer.
        say: Answers with few tokens.
    """
    starts, steady = prompts.starts, steady_length(model)
    if starts is None or (steady is not None and starts.longest + new_tokens > steady):
        return False
    dtype = next(one.dtype for one in model.parameters() if one.is_floating_point())
    # Three digits cannot tell a prompt that stands a few places off from rounding.
    if dtype.itemsize < 4 and not takes_positions(model):
        return False
    kind = _kind(model, dtype)
    if kind not in starts.tried:
        starts.tried[kind] = _agree(model, prompts, say, torch.finfo(dtype).eps ** 0.5)
    return starts.tried[kind]


def _kind(model: Any, dtype: torch.dtype) -> str:
    """All of a model that a trial's outcome hangs on: its class, settings, parts; not weights."""
    parts = sorted({type(module).__qualname__ for module in model.modules()})
    attention = getattr(model.config, "_attn_implementation", "")
    device = next(model.parameters()).device.type
    return f"{model.config.to_json_string()} {attention} {dtype} {device} {parts}"


def _agree(model: nn.Module, prompts: Sharing, say: Say, most: float) -> bool:
    """Whether some prompts' logits are the same both ways, but for `most` of their spread."""
    whole, starts = prompts.trial()
    try:
        with stored_tensors_kept(model):
            said, expected = _logits(whole, say, {})
            _, found = _logits(prefilled(model, starts), say, said)
    except Exception:  # whatever a class raises that cannot go on with several tokens at once
        return False
    return all(_alike(expected[place], found[place], most) for place in expected)


def _logits(
    batches: Iterable[tuple[Sequence[int], Any]], say: Say, told: dict[int, list[int]]
) -> tuple[dict[int, list[int]], dict[int, Tensor]]:
    """New tokens and their logits by place: [tokens, vocabulary]; `told` tokens are forced."""
    said: dict[int, list[int]] = {}
    found: dict[int, Tensor] = {}
    for places, batch in batches:
        seen: list[Tensor] = []

        def watch(
            ids: Tensor,
            logits: Tensor,
            seen: list[Tensor] = seen,
            places: Sequence[int] = places,
        ) -> Tensor:
            seen.append(logits)
            if not told:
                return logits
            step = ids.shape[1]  # a row that had ended in another batch is filled up anyway
            forced = [told[place][min(step, len(told[place]) - 1)] for place in places]
            forced_ids = torch.tensor(forced, device=ids.device)
            return torch.zeros_like(logits).scatter(1, forced_ids[:, None], 1.0)

        said |= zip(places, say(batch, (watch,)), strict=True)
        found |= zip(places, torch.stack(seen, dim=1), strict=True)
    return said, found


def _alike(expected: Tensor, found: Tensor, most: float) -> bool:
    """Whether logits [tokens, vocabulary] are off by rounding alone, in all common tokens."""
    steps = min(len(expected), len(found))
    one, other = expected[:steps].double(), found[:steps].double()
    spread = (one - one.mean(dim=-1, keepdim=True)).norm(dim=-1)
    return bool(((one - other).norm(dim=-1) <= most * spread).all())
