"""Carrying an experiment out: plan, then do, then record."""

from narrowtune.runner.execute import Options, run
from narrowtune.runner.observer import Observer
from narrowtune.runner.planning import ArmPlan, Plan, StagePlan, TaskPlan, plan

__all__ = ["ArmPlan", "Observer", "Options", "Plan", "StagePlan", "TaskPlan", "plan", "run"]
