"""Decoder layers compiled by `torch.compile`, one graph for all of them.

Layers of a tower are of one class, so what is compiled for the first serves the others (PyTorch's
"regional compilation"). Lengths are symbols: batches of other lengths compile nothing anew.
Attention by segments looks at the batch's own layout and stays outside the graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from narrowtune.errors import InputError
from narrowtune.models.segments import SEGMENTS, attend

COMPILED_NOTE = (
    "torch_compile: the same seed gives the same numbers again, but a run that was interrupted "
    "compiles on other batches, and may differ from an uninterrupted one in the last bits"
)


@contextmanager
def compiled(layers: Sequence[nn.Module]) -> Iterator[None]:
    """While the context lasts these layers run as compiled graphs, made when they are first called.

    Results are the same but for rounding. How sums are taken depends on the batch that was compiled
    first, so what earlier work in this process has compiled is forgotten.

    Args:
        layers: Of one class each time; the hooks of their modules must not change meanwhile.
    """
    if not layers:
        yield
        return
    outside: Any = torch.compiler
    AttentionInterface.register(SEGMENTS, outside.disable(attend))
    torch.compiler.reset()
    for layer in layers:
        layer.compile(dynamic=True)
    try:
        yield
    finally:
        AttentionInterface.register(SEGMENTS, attend)
        for layer in layers:
            unset: Any = layer
            unset._compiled_call_impl = None  # what nn.Module.compile sets, and nothing else


def check_compiler(device: str) -> None:
    """Refuse to compile where there is nothing to compile with.

    Args:
        device: Where the layers run; for a CPU PyTorch writes C++.

    Raises:
        InputError: No C++ compiler is installed, or PyTorch has no compiler for this Python.
    """
    if device != "cpu":
        return
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:  # the search fails in as many ways as there are compilers
        raise InputError(
            "training.torch_compile needs a C++ compiler on a CPU and none was found: install one "
            "(g++ or clang++), or leave the key out"
        ) from error
