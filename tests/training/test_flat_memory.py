"""A stage takes no more memory the longer it lasts: a step leaves its result, and nothing else."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from narrowtune.anatomy import Anatomy
from narrowtune.data.batching import collate
from narrowtune.data.encoding import Encoded
from narrowtune.engine import Engine
from narrowtune.models.processing import Processing
from narrowtune.training import Hooks, Settings, StepResult, run_stage

EARLY, LATE = 20, 60


def test_a_step_leaves_its_result_alone(
    pico_model: Callable[[], nn.Module],
    counting: list[Encoded],
    processing: Processing,
    tmp_path: Path,
) -> None:
    held: dict[int, tuple[int, int]] = {}

    def look(result: StepResult) -> None:
        if result.step in (EARLY, LATE):
            gc.collect()
            tensors = sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())
            held[result.step] = tracemalloc.get_traced_memory()[0], tensors

    model = pico_model()
    named = Anatomy.of(model).select(["gate-up"]).apply(model)
    collated = partial(collate, processing=processing, padding_side="right")
    settings = Settings(
        steps=LATE, batch_size=2, micro_batch_size=1, learning_rate=1e-4, weight_decay=0.0, seed=0
    )
    hooks = Hooks(tmp_path / "here.safetensors", every_seconds=1e9, on_step=look)
    tracemalloc.start()
    try:
        run_stage(model, named, (counting, collated), settings, Engine("cpu"), hooks)
    finally:
        tracemalloc.stop()
    (early, tensors), (late, then) = held[EARLY], held[LATE]
    assert then == tensors
    assert (late - early) / (LATE - EARLY) < 2048, "bytes of Python's objects a step"
