"""What tensors take beyond their bytes: in a process on the CPU, and in a GPU's memory."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from narrowtune.engine.memory import peak_bytes
from narrowtune.engine.rehearsal import Rehearsal

# glibc takes blocks of up to 32 MiB from its heap (M_MMAP_THRESHOLD of man 3 mallopt, which grows
# up to that). What is free between others stays resident, so the heap keeps its largest size.
_FROM_HEAP = 32 * 2**20
# Of the heap, in blocks asked for, and more where layers are run again: their blocks come and go
# between those that stay. And code and workspaces of a first step. Fitted to real stages on Linux
# with glibc 2.36 (docs/performance.md).
_HEAP, _HEAP_RECOMPUTING = 1.6, 2.0
_FIRST_STEP = 40 * 2**20

_CUDA_BLOCK = 512  # bytes that PyTorch's caching allocator rounds up to
# cuBLAS workspace as `engine.deterministic` asks for it: eight of 4096 KiB.
_CUBLAS = 8 * 4096 * 2**10


def process_bytes() -> int:
    """Resident bytes of this process, with most of the code in memory that a training step runs.

    Pages of a library become resident when they are first run, so a small step is taken before.
    """
    _small_step()
    with contextlib.suppress(OSError, IndexError):  # man 5 proc: in pages, the second is resident
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    return peak_bytes(torch.device("cpu"))


def peak_on_cpu(memories: Sequence[Rehearsal], process: int) -> int:
    """Resident bytes of a process at the peak of the last of what it computes in turn.

    The heap does not shrink: it is as large as the largest of them has made it, and what is mapped
    at the peak comes on top.

    Args:
        memories: What is computed, in this order.
        process: Resident bytes before.
    """
    heap = max(map(_heap, memories))
    mapped = _most(memories[-1], lambda size: size > _FROM_HEAP)
    return process + _FIRST_STEP + round(heap) + mapped


def _heap(memory: Rehearsal) -> float:
    """How large it makes the heap."""
    asked = _most(memory, lambda size: size <= _FROM_HEAP)
    return (_HEAP_RECOMPUTING if memory.recomputes else _HEAP) * asked


def _most(memory: Rehearsal, counts: Callable[[int], bool]) -> int:
    """The most bytes at a time in blocks of some sizes."""
    return sum(memory.at_peak(lambda size: size if counts(size) else 0).values())


def peak_on_gpu(memory: Rehearsal) -> int:
    """Bytes that `torch.cuda.max_memory_allocated` tells."""
    rounded = memory.at_peak(lambda size: -(-size // _CUDA_BLOCK) * _CUDA_BLOCK)
    return _CUBLAS + sum(rounded.values())


def _small_step() -> None:
    """A training step of the smallest model that has a transformer's operations."""
    words, size, heads = 64, 32, 4
    ids = torch.arange(16).reshape(2, 8)
    mask = torch.ones(2, 1, 8, 8, dtype=torch.bool)
    shapes = ((words, size), (size, size), (words, size))
    weights = [torch.nn.Parameter(torch.full(shape, 0.1)) for shape in shapes]
    table, mixing, head = weights
    optimiser = torch.optim.AdamW(weights, fused=True)
    for _ in range(2):
        states = F.layer_norm(F.embedding(ids, table), (size,))
        parted = F.linear(states, mixing).view(2, 8, heads, -1).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(parted, parted, parted, attn_mask=mask)
        merged = mixed.transpose(1, 2).reshape(2, 8, size)
        logits = F.linear(F.silu(merged) * states + F.gelu(states), head)
        torch.autograd.backward(F.cross_entropy(logits.flatten(0, 1), ids.flatten()))
        torch.nn.utils.clip_grad_norm_(weights, 1.0, foreach=True)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
