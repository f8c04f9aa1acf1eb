"""Features of a frozen image encoder, asked for instead of computed.

A batch is given the key of its images where pixels would stand, and the model's own
`get_image_features` is answered for as long as a context lasts: with what is kept under that key,
or with what the encoder says, which is then kept. Forward passes and `generate` call that method
in every version of transformers; which of its output they read is tried once, on a real batch,
and must give the same bits as the pixels do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from narrowtune.models.feature_parts import Plan, apart, attributes, joined, remade, together

METHOD = "get_image_features"
Group = Sequence[Path]
"""The images of one sample. Some processors cut a lone image into tiles and not one of many."""

_KEY = hashlib.sha256().digest_size
_BESIDE, _FEATURES = "beside ", "features "


@dataclass(frozen=True)
class Encoder:
    """Where a model turns pixels into features.

    Attributes:
        module: Has the method.
        pixels: Its first argument.
        answer: The method itself.
    """

    module: nn.Module
    pixels: str
    answer: Callable[..., Any]

    @property
    def takes(self) -> tuple[str, ...]:
        """The names of its arguments."""
        return tuple(signature(self.answer).parameters)

    def named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """A call's arguments by name."""
        return dict(zip(self.takes, args, strict=False)) | dict(kwargs)

    def seen(self, pixels: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """What it takes of an image processor's tensors, on the device."""
        return {name: one.to(device) for name, one in pixels.items() if name in self.takes}


@dataclass(frozen=True)
class Layout:
    """What is known of a model class's encoder, once it was tried.

    Attributes:
        kind: Class of its output.
        read: Names in the output that a forward pass reads.
        upstream: The parts it computes with: children and tensors of the module that has it.
        plans: How the outputs for one sample's images are joined, by name; None where they can't
            be, `alone` says why.
        alone: Why its samples can't be encoded one by one; empty where they can.
    """

    kind: type
    read: tuple[str, ...]
    upstream: frozenset[str]
    plans: Mapping[str, Plan] | None = None
    alone: str = ""


class Kept(Protocol):
    """An entry of a store."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """By name, on CPU."""

    @property
    def told(self) -> str:
        """How they belong together."""


class Store(Protocol):
    """Where features are kept."""

    def get(self, key: str) -> Kept | None:
        """What is kept under a key."""

    def keep(self, key: str, tensors: Mapping[str, Tensor], told: str) -> None:
        """Keep these, if there is room."""

    def takes(self, key: str) -> bool:
        """Whether it has an entry, or room for one."""


class Sight(Protocol):
    """How images are known and seen; the data room's business."""

    def digest(self, path: Path) -> bytes:
        """SHA-256 of the file."""

    def pixels(self, groups: Sequence[Group]) -> dict[str, Tensor]:
        """The image processor's tensors."""


def encoder_of(model: nn.Module) -> Encoder | None:
    """The innermost module with a `get_image_features`; None for a class without one."""
    found = [one for one in model.modules() if callable(getattr(one, METHOD, None))]
    if not found:
        return None
    answer: Callable[..., Any] = getattr(found[-1], METHOD)
    names = list(signature(answer).parameters)
    return Encoder(found[-1], names[0], answer) if names else None


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Its parameters and buffers by name, tied ones under every name."""
    parameters = module.named_parameters(remove_duplicate=False)
    return {**dict(parameters), **dict(module.named_buffers(remove_duplicate=False))}


def upstream(encoder: Encoder, layout: Layout) -> dict[str, Tensor]:
    """All parameters and buffers that features depend on, by name."""
    named = tensors_of(encoder.module).items()
    return {name: one for name, one in named if name.partition(".")[0] in layout.upstream}


@dataclass
class Feed:
    """The features of one model's images.

    Attributes:
        encoder: The model's.
        layout: What the trial told about it.
        sight: How images are known and seen.
        store: Where features are kept.
        context: What keys begin with: all that features depend on but the images.
        alone: Each sample's images are encoded by themselves, so that no feature depends on what
            else is in a batch; otherwise all of a batch together, as without a feed.
    """

    encoder: Encoder
    layout: Layout
    sight: Sight
    store: Store
    context: str
    alone: bool = False
    _asked: dict[bytes, list[tuple[str, list[Group]]]] = field(default_factory=dict, repr=False)
    _waiting: dict[str, dict[str, Tensor]] = field(default_factory=dict, repr=False)

    def takes(self, groups: Sequence[Group]) -> bool:
        """Whether these samples' images are known, or shall be; else they are shown as pixels."""
        keyed = self._calls(groups)
        return bool(keyed) and (self.alone or self.store.takes(keyed[0][0]))

    def inputs(self, groups: Sequence[Group]) -> dict[str, Tensor]:
        """What stands for these samples' images in a batch.

        The key of the images is written where the pixels would be; what goes beside them (grids,
        sizes) is as ever.
        """
        keyed = self._calls(groups)
        self._waiting.clear()  # of a batch that no model was shown
        beside = [self._beside(key, call) for key, call in keyed]
        ticket = hashlib.sha256("".join(key for key, _ in keyed).encode()).digest()
        self._asked[ticket] = keyed
        ticketed = {self.encoder.pixels: torch.tensor(list(ticket), dtype=torch.uint8)}
        if len(beside) == 1:
            return ticketed | beside[0]
        return ticketed | {name: torch.cat([one[name] for one in beside]) for name in beside[0]}

    @contextmanager
    def feeding(self) -> Iterator[None]:
        """Answer for the encoder while the context lasts."""

        @wraps(self.encoder.answer)
        def answer(*args: Any, **kwargs: Any) -> Any:
            named = self.encoder.named(args, kwargs)
            pixels: Any = named.get(self.encoder.pixels)
            if not _is_ticket(pixels):
                return self.encoder.answer(*args, **kwargs)
            return self._features(bytes(pixels.tolist()), named, pixels.device)

        setattr(self.encoder.module, METHOD, answer)
        try:
            yield
        finally:
            delattr(self.encoder.module, METHOD)

    def _calls(self, groups: Sequence[Group]) -> list[tuple[str, list[Group]]]:
        """The calls of the encoder that a batch takes, with their keys."""
        shown = [group for group in groups if group]
        calls = [[group] for group in shown] if self.alone else [shown] if shown else []
        return [(self._key(call), call) for call in calls]

    def _key(self, call: Sequence[Group]) -> str:
        digest = hashlib.sha256()
        for group in call:
            digest.update(len(group).to_bytes(4, "little"))
            for path in group:
                digest.update(self.sight.digest(path))
        return f"{self.context}/{digest.hexdigest()}"

    def _beside(self, key: str, call: Sequence[Group]) -> dict[str, Tensor]:
        kept = self.store.get(key)
        if kept is None:
            return self._without_pixels(self._pixels(key, call))
        return {
            name.removeprefix(_BESIDE): tensor
            for name, tensor in kept.tensors.items()
            if name.startswith(_BESIDE)
        }

    def _without_pixels(self, pixels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: one for name, one in pixels.items() if name != self.encoder.pixels}

    def _pixels(self, key: str, call: Sequence[Group]) -> dict[str, Tensor]:
        if key not in self._waiting:
            self._waiting[key] = self.sight.pixels(call)
        return self._waiting[key]

    def _features(self, ticket: bytes, named: dict[str, Any], device: torch.device) -> Any:
        parts = [self._part(key, call, named, device) for key, call in self._asked[ticket]]
        if len(parts) == 1:
            return remade(self.layout.kind, parts[0])
        assert self.layout.plans is not None, self.layout.alone
        plans = self.layout.plans.items()
        values = {name: joined(plan, [part[name] for part in parts]) for name, plan in plans}
        return remade(self.layout.kind, values)

    def _part(
        self, key: str, call: Sequence[Group], named: dict[str, Any], device: torch.device
    ) -> dict[str, Any]:
        """What one call of the encoder says, by name, on the device."""
        kept = self.store.get(key)
        if kept is None:
            tensors, told = self._encoded(key, call, named, device)
            self.store.keep(key, tensors, told)
        else:
            tensors, told = dict(kept.tensors), kept.told
        moved = {
            name.removeprefix(_FEATURES): tensor.to(device, copy=True)
            for name, tensor in tensors.items()
            if name.startswith(_FEATURES)
        }
        shapes: dict[str, Any] = json.loads(told)
        return {name: together(shape, moved) for name, shape in shapes.items()}

    def _encoded(
        self, key: str, call: Sequence[Group], named: dict[str, Any], device: torch.device
    ) -> tuple[dict[str, Tensor], str]:
        pixels = self._pixels(key, call)
        with torch.no_grad():
            said = attributes(self.encoder.answer(**named | self.encoder.seen(pixels, device)))
        found: dict[str, Tensor] = {}
        shapes = {name: apart(said[name], found) for name in self.layout.read}
        tensors = {
            _FEATURES + name: one.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, one in found.items()
        }
        beside = {_BESIDE + name: one for name, one in self._without_pixels(pixels).items()}
        self._waiting.pop(key, None)
        return tensors | beside, json.dumps(shapes)


def _is_ticket(pixels: Any) -> bool:
    """Whether a key stands where pixels would."""
    return isinstance(pixels, Tensor) and pixels.dtype == torch.uint8 and pixels.shape == (_KEY,)
