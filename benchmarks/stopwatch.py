"""Where the time of narrowtune's steps goes: CPU seconds between marks that hooks set.

A step passes its marks in a fixed order, so the seconds since the last mark belong to what the
new one ends.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from narrowtune.anatomy import Anatomy
from narrowtune.models.supervised import output_head

PARTS = (
    "vision and connector, forward",
    "layers, forward",
    "head, forward",
    "loss and head, backward",
    "layers, backward",
    "clipping",
    "optimiser",
    "the rest",
)


class Stopwatch:
    """CPU seconds by part, summed over steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._last = time.process_time()

    def mark(self, part: str) -> None:
        """What was done since the last mark was this part."""
        now = time.process_time()
        self.seconds[part] += now - self._last
        self._last = now

    def begin(self) -> None:
        """Forget what was measured so far."""
        self.seconds.clear()
        self._last = time.process_time()

    @contextmanager
    def watching(self, model: nn.Module, arm: str) -> Iterator[None]:
        """Marks set inside the model and its optimiser while the context lasts."""
        handles = [*self._towers(model), *self._head(model), *self._gradients(model, arm)]
        handles += [
            register_optimizer_step_pre_hook(lambda *_: self.mark("clipping")),
            register_optimizer_step_post_hook(lambda *_: self.mark("optimiser")),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _towers(self, model: nn.Module) -> Iterator[Any]:
        anatomy = Anatomy.of(model)
        for prefix in anatomy.tower_prefixes("vision", "connector"):
            module = model.get_submodule(prefix)
            yield module.register_forward_pre_hook(lambda *_: self.mark("the rest"))
            yield module.register_forward_hook(
                lambda *_: self.mark("vision and connector, forward")
            )
        layers = _layers(model, anatomy)
        yield layers[0].register_forward_pre_hook(lambda *_: self.mark("the rest"))
        yield layers[-1].register_forward_hook(lambda *_: self.mark("layers, forward"))

    def _head(self, model: nn.Module) -> Iterator[Any]:
        def arrived(_gradient: Tensor) -> None:
            self.mark("loss and head, backward")

        def before(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            self.mark("the rest")
            if args[0].requires_grad:
                args[0].register_hook(arrived)

        yield output_head(model).register_forward_pre_hook(before)
        yield output_head(model).register_forward_hook(lambda *_: self.mark("head, forward"))

    def _gradients(self, model: nn.Module, arm: str) -> Iterator[Any]:
        named = Anatomy.of(model).select([arm]).apply(model)
        for _, parameter in named:
            yield parameter.register_post_accumulate_grad_hook(
                lambda _: self.mark("layers, backward")
            )


def _layers(model: nn.Module, anatomy: Anatomy) -> nn.ModuleList:
    """The language tower's stack."""
    inside = tuple(f"{prefix}." for prefix in anatomy.tower_prefixes("language"))
    return next(
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and name.startswith(inside)
        and len(module) == anatomy.depth("language")
    )


def shares(
    model: nn.Module, arm: str, train: Callable[[Callable[[float], None]], None]
) -> dict[str, float]:
    """Each part's share of a step's CPU seconds; the first step is left out."""
    watch, first = Stopwatch(), [True]

    def on_step(_loss: float) -> None:
        watch.mark("the rest")
        if first.pop() if first else False:
            watch.begin()

    with watch.watching(model, arm):
        train(on_step)
    total = sum(watch.seconds.values())
    return {part: watch.seconds.get(part, 0.0) / total for part in PARTS}
