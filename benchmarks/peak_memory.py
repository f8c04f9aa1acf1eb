"""Peak memory of a contestant above the loaded model, in a process of its own."""

from __future__ import annotations

import gc
import multiprocessing
from pathlib import Path

import torch

from narrowtune.engine import peak_bytes, reset_peak

STEPS = 2  # the optimiser's moments come with the first


def peak_above_model(place: tuple[Path, Path], scene: int, arm: str, contestant: int) -> int:
    """Bytes at the peak of a few steps, less those resident when the model and data were ready.

    Args:
        place: The model's folder, and the pictures'.
        scene: Index of `SCENES`.
        arm: What is trained.
        contestant: Index of `CONTESTANTS`.
    """
    fresh = multiprocessing.get_context("spawn")
    with fresh.Pool(1) as pool:
        return pool.apply(_measured, (place, scene, arm, contestant))


def _measured(place: tuple[Path, Path], scene: int, arm: str, contestant: int) -> int:
    # Here, so that what it imports is there before the first look.
    from benchmarks.contestants import CONTESTANTS
    from benchmarks.models import drawn_model, processing_of
    from benchmarks.scenes import SCENES, lesson

    folder, pictures = place
    model = drawn_model(folder)
    taught = lesson(SCENES[scene], arm, processing_of(folder), pictures, STEPS)
    gc.collect()
    cpu = torch.device("cpu")
    reset_peak(cpu)
    before = peak_bytes(cpu)
    CONTESTANTS[contestant].train(model, taught, lambda loss: None)
    return peak_bytes(cpu) - before
