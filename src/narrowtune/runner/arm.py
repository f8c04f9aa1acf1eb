"""One arm through its stages: teach, score, keep what was trained."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from narrowtune.anatomy import SelectedTensor, Selection, release
from narrowtune.delta import Delta, dtype_of, model_digest, read_delta
from narrowtune.experiment import digest
from narrowtune.models.experts import COPY, add_experts
from narrowtune.models.loading import save_model
from narrowtune.record import Base, Score, predictions_path, read_header, write_predictions
from narrowtune.runner.drift import is_probed, read_probes
from narrowtune.runner.folder import delta_path, model_path
from narrowtune.runner.methods import BaseValues
from narrowtune.runner.plan import ArmPlan, Plan, StagePlan, TaskPlan
from narrowtune.runner.pruning import prune_diverged
from narrowtune.runner.session import Learner, Session, Trained, load_base
from narrowtune.runner.teaching import teach_stage
from narrowtune.training import Interrupted


def teach_arm(session: Session, arm: ArmPlan) -> None:
    """Take the base through all stages of an arm, skipping what the record already holds."""
    if session.journal.has("diverged", arm=arm.name):
        return
    todo = [stage for stage in session.plan.stages if not _finished(session, arm, stage)]
    saved = model_path(session.folder, arm.name)
    if todo or (saves_model(session.plan, arm, session.options.save_models) and not saved.exists()):
        with prune_diverged(session, arm):
            _walk_stages(session, arm, saved)
    if session.engine.is_main:
        _bind_scores(session, arm)


def _walk_stages(session: Session, arm: ArmPlan, saved: Path) -> None:
    if session.should_stop():
        raise Interrupted(f"stopped before {arm.name} was begun")
    spec = session.plan.experiment.model
    model = load_base(session)
    came_from = _base(session, model)
    selection, trained = trained_in(model, arm)
    with session.features.answering(session.plan, model, session.engine.device, arm.name):
        base = BaseValues.of(model, trained, arm, session.plan.processing)
        learner = Learner(model, selection, trained, came_from, base)
        for stage in session.plan.stages:
            _do_stage(session, learner, (arm, stage))
    release(model)
    if saves_model(session.plan, arm, session.options.save_models) and session.engine.is_main:
        save_model(model, session.plan.model, saved, spec.revision)


def trained_in(model: nn.Module, arm: ArmPlan) -> tuple[Selection, Trained]:
    """What the arm trains in a model that holds the base, and that alone requires gradients."""
    trained = arm.selection.apply(model)
    if arm.reads.experts is None:
        return arm.selection, trained
    for _, parameter in trained:
        parameter.requires_grad = False
    named = add_experts(model, arm.reads.experts, arm.selection.trained)
    selected = {one.name: one for one in arm.selection.tensors}
    tensors = []
    for name, parameter in named:
        copied = selected.get(name.replace(f".{COPY}.", "."))
        part = copied.part if copied else "mlp.router"
        tensors.append(SelectedTensor(name, "language", part, parameter.numel()))
    return replace(arm.selection, tensors=tuple(tensors)), named


def saves_model(plan: Plan, arm: ArmPlan, asked: bool) -> bool:
    """Whether an arm's finished model is written.

    With experts, or quantised, it is of no class to load it by.
    """
    return asked and arm.reads.experts is None and plan.quantization is None


def score_all(session: Session, model: nn.Module, arm: str, stage: str) -> None:
    """Score every task on the model as it stands, task by task into the record."""
    todo = [
        task
        for task in session.plan.tasks
        if not session.journal.has("scores", arm=arm, stage=stage, task=task.name)
    ]
    if not todo:
        return
    session.begin(f"{arm} · scoring after {stage}", len(todo))
    for task in todo:
        if session.should_stop():
            raise Interrupted(f"stopped before scoring {task.name}")
        started = time.monotonic()
        found = _score(session, model, task, (arm, stage))
        session.journal.add(scores=[found])
        session.journal.charge_evaluation(arm, stage, time.monotonic() - started)
        session.observer.score(found)


def _base(session: Session, model: nn.Module) -> Base:
    spec = session.plan.experiment.model
    return Base(
        id=spec.id,
        revision=spec.revision,
        dtype=dtype_of(model),
        sha256=model_digest(model),
        quantization=session.plan.quantization,
    )


def _do_stage(session: Session, learner: Learner, unit: tuple[ArmPlan, StagePlan]) -> None:
    arm, stage = unit[0].name, unit[1].name
    if session.journal.has("ledger", arm=arm, stage=stage):
        _put_back(learner.trained, read_delta(delta_path(session.folder, arm, stage)))
    else:
        teach_stage(session, learner, unit)
    if "after_stage" in session.plan.experiment.evaluate:
        score_all(session, learner.model, arm, stage)
    read_probes(session, learner.model, arm, stage)


def _bind_scores(session: Session, arm: ArmPlan) -> None:
    """Write into each stage's delta which scores its weights reached."""
    for stage in session.plan.stages:
        path, unit = delta_path(session.folder, arm.name, stage.name), (arm.name, stage.name)
        rows = [row for row in session.journal.record.scores if (row.arm, row.stage) == unit]
        sha256 = digest([row.model_dump(mode="json") for row in rows])
        # A user may have moved it away for its size.
        if rows and path.exists() and read_header(path).scores_sha256 != sha256:
            read_delta(path).with_scores(sha256).save(path)


def _score(session: Session, model: nn.Module, task: TaskPlan, unit: tuple[str, str]) -> Score:
    arm, stage = unit
    result = task.prepared.score(model)
    if session.engine.is_main:
        path = predictions_path(session.folder, arm, stage, task.name)
        write_predictions(path, result.samples)
    return Score(
        arm=arm,
        stage=stage,
        task=task.name,
        role=task.role,
        metric=task.prepared.metric_name,
        value=result.value,
        n=result.n,
        stderr=result.stderr,
        higher_is_better=result.higher_is_better,
        task_version=result.task_version,
    )


def _finished(session: Session, arm: ArmPlan, stage: StagePlan) -> bool:
    journal, where = session.journal, {"arm": arm.name, "stage": stage.name}
    if not is_probed(session, arm.name, stage.name):
        return False
    if "after_stage" not in session.plan.experiment.evaluate:
        return journal.has("ledger", **where)
    return journal.has("ledger", **where) and all(
        journal.has("scores", task=task.name, **where) for task in session.plan.tasks
    )


@torch.no_grad()
def _put_back(trained: Trained, delta: Delta) -> None:
    for name, parameter in trained:
        parameter.copy_(delta.tensors[name])
