"""The noise of scoring, measured: the same weights answer again, in batches of another size."""

from __future__ import annotations

import json
from typing import Any

from torch import nn

from narrowtune.evaluation import PreparedTask, TaskResult, score
from narrowtune.record import BASE, NOISE_FLOOR, predictions_path
from narrowtune.runner.plan import TaskPlan
from narrowtune.runner.session import Session


def measure_noise(session: Session, model: nn.Module) -> None:
    """Score the base again in each batch size, one reading per task into the record.

    Tasks that a harness runs are left out: it chooses its own batches.
    """
    floor = session.plan.experiment.noise_floor
    for size in floor.batch_sizes if floor else ():
        keys = {"probe": NOISE_FLOOR, "batch_size": size}
        todo = [
            (task, task.prepared)
            for task in session.plan.tasks
            if isinstance(task.prepared, PreparedTask)
            and not session.journal.has("readings", task=task.name, **keys)
        ]
        if todo:
            session.begin(f"{BASE} · scoring in batches of {size}", len(todo))
        for task, prepared in todo:
            again = score(model, prepared.again(batch_size=size))
            session.journal.add(readings=[_reading(session, task, again) | keys])


def _reading(session: Session, task: TaskPlan, again: TaskResult) -> dict[str, Any]:
    path = predictions_path(session.folder, BASE, BASE, task.name)
    first = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    pairs = list(zip(first, again.samples, strict=True))
    (before,) = (
        score.value
        for score in session.journal.record.scores
        if (score.arm, score.stage, score.task) == (BASE, BASE, task.name)
    )
    return {
        "arm": BASE,
        "stage": BASE,
        "task": task.name,
        "value": again.value - before,
        "flipped": sum(a["score"] != b["score"] for a, b in pairs) / len(pairs),
        "reworded": sum(a["prediction"] != b["prediction"] for a, b in pairs) / len(pairs),
        "n": len(pairs),
        "unit": "fraction",
    }
