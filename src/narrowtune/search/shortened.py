"""A plan with fewer arms, taught for a share of the steps, scored on a share of the samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from typing import TypeVar

from narrowtune.evaluation import PreparedTask
from narrowtune.experiment import (
    ArmSpec,
    HarnessSpec,
    StageSpec,
    TrainingOverrides,
    TrainingSpec,
)
from narrowtune.runner import Plan, StagePlan, TaskPlan

LEAST_TESTS = 16
"""Samples that a task is scored on at least, if it has them: fewer say nothing."""

Training = TypeVar("Training", TrainingSpec, TrainingOverrides)


def shortened(plan: Plan, arms: Sequence[str], steps: float, tests: float) -> Plan:
    """The plan of one rung. Nothing is read again; a public harness's task keeps its size.

    Args:
        plan: The whole one, of one order and seed.
        arms: Names of those that are taught, in this order.
        steps: Share of every stage's steps, above 0 and up to 1.
        tests: Share of every task's samples; the first ones are taken.
    """
    tasks = tuple(_smaller(task, tests) for task in plan.tasks)
    limits = {task.name: task.spec.limit for task in tasks}
    specs = [
        stage.spec.model_copy(
            update={
                "training": _shorter(stage.spec.training, steps),
                "limit": limits.get(stage.name, stage.spec.limit),
            }
        )
        for stage in plan.stages
    ]
    stages = tuple(map(_with_spec, plan.stages, specs))
    own = {arm.name: arm for arm in plan.arms}
    chosen = tuple(replace(own[name], spec=_arm(own[name].spec, steps)) for name in arms)
    experiment = plan.experiment.model_copy(
        update={
            "arms": tuple(arm.spec for arm in chosen),
            "stages": tuple(specs),
            "held_out": tuple(task.spec for task in tasks if task.role == "held_out"),
            "training": _shorter(plan.experiment.training, steps),
            "probes": (),
            "noise_floor": None,
        }
    )
    return replace(
        plan, experiment=experiment, arms=chosen, stages=stages, tasks=tasks, probing=None, looks=()
    )


def _with_spec(stage: StagePlan, spec: StageSpec) -> StagePlan:
    return replace(stage, spec=spec)


def _arm(spec: ArmSpec, steps: float) -> ArmSpec:
    return spec.model_copy(update={"training": _shorter(spec.training, steps)})


def _shorter(training: Training, share: float) -> Training:
    """The section with a share of its steps and epochs, where it gives any."""
    updates: dict[str, float] = {}
    if training.steps is not None:
        updates["steps"] = max(1, ceil(share * training.steps))
    if training.epochs is not None:
        updates["epochs"] = share * training.epochs
    return training.model_copy(update=updates)


def samples_at(plan: Plan, share: float) -> int:
    """How many samples of all tasks are scored at a share of the tests."""
    return sum(_size_at(task, share) for task in plan.tasks)


def _size_at(task: TaskPlan, share: float) -> int:
    size = task.prepared.size
    if isinstance(task.spec, HarnessSpec) or not isinstance(task.prepared, PreparedTask):
        return size
    return min(size, max(LEAST_TESTS, ceil(share * size)))


def _smaller(task: TaskPlan, share: float) -> TaskPlan:
    wanted, prepared = _size_at(task, share), task.prepared
    if wanted == prepared.size or not isinstance(prepared, PreparedTask):
        return task
    spec = task.spec.model_copy(update={"limit": wanted})
    return replace(task, spec=spec, prepared=prepared.again(prepared.examples[:wanted]))
