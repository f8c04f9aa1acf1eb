"""Devices that work is planned for: this machine, measured, or one that is known by name."""

from __future__ import annotations

import os
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import torch
import torch.nn.functional as F

from narrowtune.errors import InputError, nearest

UTILISATION = 0.4
"""Share of a named device's peak that matrix products are taken to reach."""

HOST_LINK, HOST_BANDWIDTH = 10e9, 20e9
"""Bytes a second that plain memory exchanges with a GPU over PCIe 4.0 x16, and that a GPU's host
moves within its own memory: assumed, cautiously."""

# What an operation costs a GPU's host, whatever its size, when PyTorch runs it eagerly.
_LAUNCH = 8e-6
# Held by the driver's context and PyTorch's own libraries, and lost between blocks.
_RESERVED = 2**30
_DTYPES = (torch.float32, torch.bfloat16)
_FEW = 100
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Device:
    """What a device holds and how fast it is.

    Attributes:
        name: As it is called in a plan.
        kind: `cpu`, `cuda` or `mps`: where its numbers are computed.
        memory: Bytes that a process can use.
        flops: By dtype: operations a second that matrix products reach.
        bandwidth: Bytes a second between its memory and its units.
        launch: Seconds that an operation costs however small it is.
        measured: Whether the speeds were measured here, or come from data sheets.
    """

    name: str
    kind: str
    memory: int
    flops: Mapping[torch.dtype, float]
    bandwidth: float
    launch: float
    measured: bool

    def seconds(self, work: Iterable[tuple[int, int]], dtype: torch.dtype) -> float:
        """How long operations take one after the other.

        Each is bound by its products or by its memory traffic, whichever takes longer (the roofline
        of Williams et al., Communications of the ACM 52(4), 2009).

        Args:
            work: Floating-point operations and bytes moved, of each.
            dtype: What it is computed in.
        """
        rate = self.flops[dtype]
        return sum(self.launch + max(flops / rate, moved / self.bandwidth) for flops, moved in work)


def named_device(name: str) -> Device:
    """A device by its name in `devices.toml`, at a stated share of its peak.

    Raises:
        InputError: There is none of this name; with the nearest.
    """
    known = _known()
    if name not in known:
        raise InputError(f"plan knows no device {name!r}; {nearest(name, known)}")
    row = known[name]
    rates = (row["float32_tflops"], row["bfloat16_tflops"])
    return Device(
        name=name,
        kind="cuda",
        memory=int(row["memory_gib"] * 2**30) - _RESERVED,
        flops={d: UTILISATION * rate * 1e12 for d, rate in zip(_DTYPES, rates, strict=True)},
        bandwidth=row["bandwidth_gbs"] * 1e9,
        launch=_LAUNCH,
        measured=False,
    )


@lru_cache(maxsize=8)
def this_machine(kind: str, dtype: torch.dtype) -> Device:
    """The machine this runs on, its speeds measured in a fraction of a second.

    On a CPU as if nothing else ran on it: by the seconds its cores worked for this process.

    Args:
        kind: `cpu`, or the GPU's.
        dtype: What will be computed in; its speed alone is measured.
    """
    on = torch.device(kind)
    small = on.type == "cpu"
    side = 512 if small else 4096
    left, right = (torch.ones(side, side, dtype=dtype, device=on) for _ in range(2))
    block, other = (torch.ones((32 if small else 512) * 2**18, device=on) for _ in range(2))
    few = torch.ones(8, device=on, requires_grad=True)
    return Device(
        name=torch.cuda.get_device_name(on) if on.type == "cuda" else f"this machine ({on.type})",
        kind=on.type,
        memory=_memory(on),
        flops={dtype: 2 * side**3 / _shortest(on, lambda: F.linear(left, right))},
        bandwidth=2 * block.nbytes / _shortest(on, lambda: other.copy_(block)),
        launch=_shortest(on, lambda: [F.silu(few) for _ in range(_FEW)]) / _FEW,
        measured=True,
    )


def _shortest(on: torch.device, work: Callable[[], object], times: int = 5) -> float:
    """Seconds of the fastest of a few runs."""
    taken = []
    for _ in range(times):
        started = _clock(on)
        work()
        taken.append(_clock(on) - started)
    return max(min(taken), 1e-9)


def _clock(on: torch.device) -> float:
    if on.type == "cpu":
        return time.process_time() / torch.get_num_threads()
    if on.type == "cuda":
        torch.cuda.synchronize(on)
    return time.perf_counter()


def _memory(on: torch.device) -> int:
    """Bytes of the GPU, or of the machine as far as this process may use them."""
    if on.type == "cuda":
        return int(torch.cuda.mem_get_info(on)[1]) - _RESERVED
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in _LIMITS:  # of a container
        with suppress(OSError, ValueError):
            whole = min(whole, int(Path(limit).read_text()))
    return whole


@lru_cache(maxsize=1)
def _known() -> dict[str, dict[str, float]]:
    return tomllib.loads(files("narrowtune.engine").joinpath("devices.toml").read_text("utf-8"))
