"""An experiment's entries for pico tasks that lie in `data/`."""

from __future__ import annotations

from narrowtune import pico


def scored(task: str) -> dict[str, object]:
    """What is scored: a held-out task, or the test of a stage."""
    return {"name": task, "test": f"data/{task}/test.jsonl", "metric": pico.METRICS[task]}


def small(held_out: tuple[str, ...], /, **more: object) -> dict[str, object]:
    """Counting is taught, these tasks are held out; `more` adds what is missing or replaces it."""
    return {
        "model": {"id": "pico-qwen", "dtype": "float32"},
        "stages": [{"name": "counting", "train": "data/counting/train.jsonl"}],
        "held_out": [scored(task) for task in held_out],
        **more,
    }
