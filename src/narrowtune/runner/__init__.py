"""Carrying an experiment out: plan, then do, then record."""

from narrowtune.runner.execute import Options
from narrowtune.runner.folder import refuse_occupied
from narrowtune.runner.observer import Observer
from narrowtune.runner.plan import ArmPlan, Plan, StagePlan, TaskPlan
from narrowtune.runner.planning import plan
from narrowtune.runner.replicates import run

__all__ = [
    "ArmPlan",
    "Observer",
    "Options",
    "Plan",
    "StagePlan",
    "TaskPlan",
    "plan",
    "refuse_occupied",
    "run",
]
