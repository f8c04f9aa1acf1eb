"""What a forward computes, by the operations it calls: no name of a module is believed.

Attention is where two computed tensors are multiplied (query and key), their product goes through
a softmax, and is multiplied with a third (value). An MLP's end is where a weight is multiplied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_PRODUCTS = {
    "matmul", "__matmul__", "__rmatmul__", "bmm", "mm", "baddbmm", "addmm", "einsum", "linear",
}  # fmt: skip


@dataclass(frozen=True)
class AttentionCall:
    """The query, key and value of one softmax attention, and the module that computed it."""

    path: str
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor


@dataclass
class Forward:
    """What one forward returned and what was seen on the way.

    Attributes:
        logits: What the model returned.
        attentions: Every attention, in order, of the first call of each module.
        multiplied: By the name of a weight, what it was multiplied with, in order, in the first
            call of each module.
    """

    logits: torch.Tensor | None = None
    attentions: list[AttentionCall] = field(default_factory=list)
    multiplied: dict[str, list[torch.Tensor]] = field(default_factory=dict)


def watched_forward(
    model: nn.Module, run: Callable[..., Any], inputs: Mapping[str, Any]
) -> Forward:
    """Runs a function of the model, such as the model itself, and tells what happened."""
    with _called_modules(model) as called, _Watch(model, called) as watch:
        out = run(**inputs)
    watch.seen.logits = getattr(out, "logits", None)
    return watch.seen


@dataclass
class _Called:
    """The modules that are running now, outermost first, and how often each has been called."""

    stack: list[str] = field(default_factory=lambda: [""])
    times: Counter[str] = field(default_factory=Counter)

    @property
    def first(self) -> bool:
        """Whether the innermost module is being called for the first time."""
        return self.times[self.stack[-1]] <= 1

    def first_of(self, weight: str) -> bool:
        """The same, if the module holds this weight by this name: a tied one has others."""
        return self.first and weight.startswith(self.stack[-1])


@contextmanager
def _called_modules(model: nn.Module) -> Iterator[_Called]:
    called = _Called()

    def enter(path: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            called.stack.append(path)
            called.times[path] += 1

        return hook

    def leave(*_: Any) -> None:
        called.stack.pop()

    hooks = []
    for path, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(enter(path)))
        hooks.append(module.register_forward_hook(leave))
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()


class _Watch(TorchFunctionMode):
    """Sees every torch function of a forward."""

    def __init__(self, model: nn.Module, called: _Called) -> None:
        super().__init__()
        self.seen = Forward()
        self._called = called
        self._weights = {_memory(p): name for name, p in model.named_parameters()}
        self._products: list[tuple[torch.Tensor, torch.Tensor, torch.Size]] = []
        self._scores: tuple[torch.Tensor, torch.Tensor] | None = None
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None
        self._probabilities: torch.Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in _PRODUCTS:
            self._multiply(list(_tensors((args, kwargs or {}))), result)
        elif name == "softmax":
            self._soften(args[0] if args else kwargs["input"])
        elif name == "scaled_dot_product_attention":
            self._attend(*list(_tensors((args, kwargs or {})))[:3])
        return result

    def _multiply(self, tensors: list[torch.Tensor], result: torch.Tensor) -> None:
        computed = [t for t in tensors if _memory(t) not in self._weights]
        if len(computed) < len(tensors):
            for tensor in tensors:
                name = self._weights.get(_memory(tensor))
                if name is not None and computed and self._called.first_of(name):
                    self.seen.multiplied.setdefault(name, []).append(computed[0])
            return
        if len(computed) < 2:
            return
        left, right = computed[-2:]
        if self._scores is not None:
            self._attend(*self._scores, right)
            self._probabilities = left
        elif self._last is not None and left is self._probabilities:
            self._attend(*self._last, right)
        else:
            self._products.append((left, right, result.shape))

    def _soften(self, scores: torch.Tensor) -> None:
        made = [(q, k) for q, k, shape in self._products if _are_scores(scores.shape, shape)]
        self._scores = made[-1] if made else None
        self._products = []

    def _attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        self._scores, self._last = None, (query, key)
        if self._called.first:
            call = AttentionCall(self._called.stack[-1], query, key, value)
            self.seen.attentions.append(call)


def _are_scores(scores: torch.Size, product: torch.Size) -> bool:
    """Whether a softmax is of this product, with or without a sink beside the keys."""
    wider = scores[-1] - product[-1]
    return wider in (0, 1) and scores.numel() * product[-1] == product.numel() * scores[-1]


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)


def _memory(tensor: torch.Tensor) -> int:
    """The same number for a tensor and its views."""
    return tensor.untyped_storage().data_ptr()
