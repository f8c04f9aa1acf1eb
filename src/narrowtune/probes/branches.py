"""What each branch of each layer writes into the residual stream, and what the final norm reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from posixpath import commonpath
from typing import Any

import torch
from torch import Tensor, nn

from narrowtune.anatomy import Anatomy, TensorInfo
from narrowtune.models.supervised import output_at, output_head
from narrowtune.probes.flow import UNKNOWN, Flow, tensors_in

BRANCHES = {
    "attn": "attention", "mlp": "mlp", "experts": "mlp", "shared": "mlp", "router": "",
    "mixer": "mixer", "norm": "", "pos": "", "embed": "",
}  # fmt: skip
"""The branch that each part writes through; what norms, places or routes writes nothing itself."""

EMBEDDED = "embed"
"""What the first layer reads."""


@dataclass
class Written:
    """One forward, at the asked positions, float32 on the CPU.

    Attributes:
        parts: By `embed`, `attention.0`, `mlp.0`, ...: what was added to the stream, [positions,
            hidden], in the model's order.
        missing: By `layer.3`: why nothing is known of it.
        stream: The stream as it leaves the last layer, [positions, hidden].
        norm: The module between it and the output head; None where there is none or more than one.
        normed: What that module gives, [positions, hidden].
        like: The same, of no position, in the model's own type and on its device.
    """

    parts: dict[str, Tensor] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    stream: Tensor | None = None
    norm: nn.Module | None = None
    normed: Tensor | None = None
    like: Tensor | None = None

    def add(self, part: str, values: Tensor) -> None:
        """More of a part: a layer that runs twice, a branch that adds twice, is summed."""
        earlier = self.parts.get(part)
        self.parts[part] = values if earlier is None else earlier + values


@dataclass(frozen=True)
class Layout:
    """Where a model's decoder layers are, and which modules in them hold parameters of a branch.

    Attributes:
        layers: Module paths by index.
        owners: Module paths inside layers, with their branch.
    """

    layers: Mapping[str, int]
    owners: Mapping[str, str]

    @classmethod
    def of(cls, model: nn.Module) -> Layout:
        """The layout of the language tower, by its anatomy."""
        inside: dict[int, list[TensorInfo]] = {}
        for tensor in Anatomy.of(model).parameters:
            if tensor.tower == "language" and tensor.layer is not None:
                inside.setdefault(tensor.layer, []).append(tensor)
        layers = {_shared_path(tensors): layer for layer, tensors in inside.items()}
        owners = {
            tensor.name.rpartition(".")[0]: BRANCHES.get(tensor.part.partition(".")[0], UNKNOWN)
            for tensors in inside.values()
            for tensor in tensors
        }
        return cls(layers, {path: owners[path] for path in owners if owners[path]})


def written(
    model: nn.Module, layout: Layout, inputs: Mapping[str, Tensor], asked: Tensor
) -> Written:
    """Run the model once and see what its branches add to the residual stream.

    Args:
        model: A transformers model with an output head.
        layout: Of this model.
        inputs: Keyword arguments of its forward.
        asked: Bool, [batch, tokens]: the positions that are looked at.
    """
    watch = _Watch(model, layout, asked)
    with watch.running():
        output_at(model, inputs, asked, use_cache=False)
    return watch.seen


class _Watch:
    """Hooks on the layers, on what holds parameters in them, and on what comes after them."""

    def __init__(self, model: nn.Module, layout: Layout, asked: Tensor) -> None:
        self.seen = Written()
        self._model, self._layout, self._asked = model, layout, asked
        self._flow = Flow(self._at)
        self._last: Tensor | None = None
        self._after: list[tuple[nn.Module, Tensor]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        layout, head = self._layout, output_head(self._model)
        self.seen.missing = {
            f"layer.{layer}": "it has not been called" for layer in layout.layers.values()
        }
        with ExitStack() as hooks:
            for path, module in self._model.named_modules():
                if path in layout.layers:
                    self._watch_layer(hooks, module, layout.layers[path])
                elif path in layout.owners:
                    hooks.enter_context(_removed(module.register_forward_hook(self._owned(path))))
                elif module is not head and not self._holds_layers(path):
                    hooks.enter_context(_removed(module.register_forward_hook(self._passed)))
            hooks.enter_context(_removed(head.register_forward_pre_hook(self._read)))
            with self._flow:
                yield

    def _watch_layer(self, hooks: ExitStack, module: nn.Module, layer: int) -> None:
        def begin(_module: nn.Module, args: Any, kwargs: Any) -> None:
            stream = self._stream_in((args, kwargs))
            if stream is None:
                self.seen.missing[f"layer.{layer}"] = "it reads no single vector for each token"
                return
            if not self.seen.parts:
                self.seen.add(EMBEDDED, self._at(stream))
            self._flow.enter(stream)

        def end(_module: nn.Module, _args: Any, output: Any) -> None:
            stream = self._stream_in(output)
            if stream is not None:
                self._layer_ends(layer, stream)

        hooks.enter_context(_removed(module.register_forward_pre_hook(begin, with_kwargs=True)))
        hooks.enter_context(_removed(module.register_forward_hook(end)))

    def _layer_ends(self, layer: int, stream: Tensor) -> None:
        tag = self._flow.leave(stream)
        self._last, self._after = stream, []
        if tag.pieces:
            self.seen.missing.pop(f"layer.{layer}", None)
        else:
            self.seen.missing[f"layer.{layer}"] = "its output is not its input with something added"
        for branch, values in tag.pieces:
            self.seen.add(f"{branch}.{layer}", values)

    def _owned(self, path: str) -> Any:
        branch = self._layout.owners[path]
        return lambda _module, args, output: self._flow.returned(args, output, branch)

    def _passed(self, module: nn.Module, args: Any, output: Any) -> None:
        """A module behind the last layer, if it reads what that has written."""
        given, made = self._stream_in(args), self._stream_in(output)
        if given is None or made is None or given is not self._last:
            return
        if made.shape == given.shape:
            self._after.append((module, made))

    def _read(self, _head: nn.Module, args: Any) -> None:
        hidden = self._stream_in(args)
        if self._last is None or hidden is None:
            return
        self.seen.stream, self.seen.normed = self._at(self._last), self._at(hidden)
        self.seen.like = hidden[:0, 0]
        came = [one for one, made in self._after if torch.equal(self._at(made), self.seen.normed)]
        self.seen.norm = came[-1] if came else None

    def _holds_layers(self, path: str) -> bool:
        start = f"{path}." if path else ""
        return any(layer.startswith(start) for layer in self._layout.layers)

    def _stream_in(self, values: Any) -> Tensor | None:
        """The first tensor of numbers, if it has a vector for each token."""
        first = next((one for one in tensors_in(values) if one.is_floating_point()), None)
        fits = first is not None and first.ndim == 3 and first.shape[:2] == self._asked.shape
        return first if fits else None

    def _at(self, stream: Tensor) -> Tensor:
        whole = stream.reshape(*self._asked.shape, -1)
        return whole[self._asked.to(whole.device)].float().cpu()


def _shared_path(tensors: list[TensorInfo]) -> str:
    """The innermost module that all of these lie in."""
    paths = [tensor.name.rpartition(".")[0].replace(".", "/") for tensor in tensors]
    return commonpath(paths).replace("/", ".")


@contextmanager
def _removed(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
