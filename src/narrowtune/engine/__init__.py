"""Devices, processes and gradients across them, by Hugging Face Accelerate."""

from narrowtune.engine.cpu import cpu_has_bfloat16
from narrowtune.engine.engine import (
    Engine,
    deterministic,
    is_main_process,
    seed_everything,
    told_by_any,
)
from narrowtune.engine.memory import peak_bytes, reset_peak

__all__ = [
    "Engine",
    "cpu_has_bfloat16",
    "deterministic",
    "is_main_process",
    "peak_bytes",
    "reset_peak",
    "seed_everything",
    "told_by_any",
]
