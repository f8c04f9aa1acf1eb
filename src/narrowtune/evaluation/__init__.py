"""Scoring a model on a task: greedy answers or choices by likelihood, judged by a metric."""

from narrowtune.evaluation.evaluate import evaluate, score
from narrowtune.evaluation.metrics import METRICS, Metric, metric_named, misfits
from narrowtune.evaluation.tasks import (
    How,
    PreparedTask,
    Task,
    TaskResult,
    prepare,
    standard_error,
)

__all__ = [
    "METRICS",
    "How",
    "Metric",
    "PreparedTask",
    "Task",
    "TaskResult",
    "evaluate",
    "metric_named",
    "misfits",
    "prepare",
    "score",
    "standard_error",
]
