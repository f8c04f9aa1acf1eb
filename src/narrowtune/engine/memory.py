"""Peak memory of a stretch of work: the device's on a GPU, the process's resident size on CPU."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

import torch

_PROC = Path("/proc/self")


def reset_peak(device: torch.device) -> None:
    """Begin a new stretch: the peak from here on is what `peak_bytes` will tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # 5 = forget the high-water mark (Linux, man 5 proc)
        (_PROC / "clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int:
    """Bytes at the peak since `reset_peak`; since the process began where that can't be reset."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (_PROC / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
