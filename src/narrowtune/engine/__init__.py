"""Devices, processes and gradients across them, by Hugging Face Accelerate."""

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
    "deterministic",
    "is_main_process",
    "peak_bytes",
    "reset_peak",
    "seed_everything",
    "told_by_any",
]
