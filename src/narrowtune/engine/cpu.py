"""What the CPU computes with instructions of its own."""

from __future__ import annotations

import time
from functools import lru_cache

import torch
from torch.nn.functional import linear

# As torch.cpu.get_capabilities (PyTorch 2.10) names them, on x86 and on ARM.
_BFLOAT16 = ("avx512_bf16", "amx_bf16", "avx10_1", "avx10_2", "bf16", "sve_bf16")
# What older ones answer with; every CPU with AMX tiles multiplies bfloat16 on them.
_OLDER = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
# Times float32's: with instructions it is faster; on AVX2 without them it took 7 to 8 times.
_SLOW = 2.0


@lru_cache(maxsize=1)
def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies in bfloat16 by itself; otherwise it is slower than in float32.

    Asked of PyTorch; one that does not know lets a small matrix product tell.
    """
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        known = capabilities()
        return any(known.get(name, False) for name in _BFLOAT16)
    answers = [getattr(torch.cpu, name, None) for name in _OLDER]
    if any(answer is not None and answer() for answer in answers):
        return True
    return _seconds(torch.bfloat16) < _SLOW * _seconds(torch.float32)


def _seconds(dtype: torch.dtype) -> float:
    """The shortest of a few products of 64 x 256 by 256 x 256: a millisecond or two at most."""
    rows, weight = torch.ones(64, 256, dtype=dtype), torch.ones(256, 256, dtype=dtype)
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        linear(rows, weight)
        taken.append(time.perf_counter() - started)
    return min(taken)
