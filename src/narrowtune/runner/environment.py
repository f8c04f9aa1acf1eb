"""What a result was computed with, for the record."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from narrowtune.engine import cpu_has_bfloat16

_PACKAGES = (
    "narrowtune", "torch", "transformers", "accelerate", "tokenizers", "numpy", "pillow",
    "sacrebleu", "lm_eval", "lmms_eval",
)  # fmt: skip

HARDWARE = ("device", "device_name", "threads", "processes", "packages")
"""What of the environment may move the last bits of a result."""


def environment(device: torch.device, processes: int) -> dict[str, Any]:
    """Versions, hardware and thread count: what "same hardware, same numbers" refers to."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {package: _version(package) for package in _PACKAGES},
        "device": str(device),
        "device_name": name or platform.machine(),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "cpu_bfloat16": cpu_has_bfloat16(),
    }


def dtype_notes(dtype: str, device: str) -> list[str]:
    """What the experiment's dtype costs on this machine, where it costs more than it saves.

    Args:
        dtype: As the experiment has it.
        device: Where it is computed.
    """
    if dtype != "bfloat16" or torch.device(device).type != "cpu" or cpu_has_bfloat16():
        return []
    return [
        "note: model.dtype bfloat16: this CPU has no bfloat16 instructions and computes it several "
        "times slower than float32; it only saves memory (-o model.dtype=float32)"
    ]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
