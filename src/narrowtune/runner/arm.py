"""One arm through its stages: teach, check the ledger, score, keep what was trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from narrowtune.anatomy import release
from narrowtune.data.batching import Batch, collate
from narrowtune.data.encoding import Encoded
from narrowtune.delta import Delta, Ledger, dtype_of, model_digest, read_delta
from narrowtune.engine import Engine, peak_bytes, reset_peak
from narrowtune.experiment import digest
from narrowtune.models.loading import load_model, save_model, without_gradient
from narrowtune.record import (
    Base,
    Cost,
    DataOrder,
    LedgerRow,
    LossRow,
    Score,
    predictions_path,
    read_header,
    write_predictions,
)
from narrowtune.runner.budget import BudgetedStage, Unlimited
from narrowtune.runner.drift import is_probed, read_probes
from narrowtune.runner.during import StageLooks
from narrowtune.runner.folder import checkpoint_path, delta_path, looks_path, model_path
from narrowtune.runner.journal import Journal
from narrowtune.runner.observer import Observer
from narrowtune.runner.plan import ArmPlan, Plan, StagePlan, TaskPlan
from narrowtune.training import Diverged, Hooks, Interrupted, StageResult, StepResult, run_stage

if TYPE_CHECKING:
    from narrowtune.runner.execute import Options

Trained = Sequence[tuple[str, nn.Parameter]]


@dataclass
class Session:
    """What every step of a run needs at hand."""

    plan: Plan
    folder: Path
    engine: Engine
    options: Options
    journal: Journal
    observer: Observer
    should_stop: Callable[[], bool] = lambda: False
    base_from: Path | None = None
    doing: str = "starting"

    def begin(self, what: str, total: int) -> None:
        """Say what comes next, to the observer and for error messages."""
        self.doing = what
        self.observer.phase(what, total)


def teach_arm(session: Session, arm: ArmPlan) -> None:
    """Take the base through all stages of an arm, skipping what the record already holds."""
    todo = [stage for stage in session.plan.stages if not _finished(session, arm, stage)]
    saved = model_path(session.folder, arm.name)
    if todo or (session.options.save_models and not saved.exists()):
        _walk_stages(session, arm, saved)
    if session.engine.is_main:
        _bind_scores(session, arm)


def _walk_stages(session: Session, arm: ArmPlan, saved: Path) -> None:
    spec = session.plan.experiment.model
    model = load_base(session)
    base = _base(session, model)
    trained = arm.selection.apply(model)
    for stage in session.plan.stages:
        _do_stage(session, model, trained, (arm, stage), base)
    release(model)
    if session.options.save_models and session.engine.is_main:
        save_model(model, session.plan.model, saved, spec.revision)


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


def load_base(session: Session) -> nn.Module:
    """The experiment's model with its weights, untouched."""
    spec = session.plan.experiment.model
    device = str(session.engine.device)
    return load_model(session.plan.model, spec.revision, spec.dtype, device, spec.trust_remote_code)


def _base(session: Session, model: nn.Module) -> Base:
    spec = session.plan.experiment.model
    return Base(
        id=spec.id, revision=spec.revision, dtype=dtype_of(model), sha256=model_digest(model)
    )


def _do_stage(
    session: Session,
    model: nn.Module,
    trained: Trained,
    unit: tuple[ArmPlan, StagePlan],
    base: Base,
) -> None:
    arm, stage = unit[0].name, unit[1].name
    if session.journal.has("ledger", arm=arm, stage=stage):
        _put_back(trained, read_delta(delta_path(session.folder, arm, stage)))
    else:
        _teach_stage(session, model, trained, unit, base)
    if "after_stage" in session.plan.experiment.evaluate:
        score_all(session, model, arm, stage)
    read_probes(session, model, arm, stage)


def _teach_stage(
    session: Session,
    model: nn.Module,
    trained: Trained,
    unit: tuple[ArmPlan, StagePlan],
    base: Base,
) -> None:
    arm, stage = unit[0].name, unit[1].name
    checkpoint = checkpoint_path(session.folder, arm, stage)
    session.journal.forget_teaching(arm, stage)  # of an attempt that failed
    ledger = Ledger(model, unit[0].selection)
    reset_peak(session.engine.device)
    model.train()
    looks = _looks(session, unit)
    budget = _budget(session, trained, unit)
    with _frozen_towers_without_gradient(session, model, unit[0]):
        result = _run(session, model, trained, unit, (looks, budget))
    model.eval()
    if idle := result.unreached:
        session.observer.note(
            f"note: no gradient reached {len(idle)} trained parameters, such as {idle[0]}"
        )
    for broken in budget.end(model):
        session.observer.note(f"{arm} after {stage}: {broken}")
    peak = peak_bytes(session.engine.device)
    after = ledger.look()
    difference = ledger.changed(after)
    row = LedgerRow(
        arm=arm, stage=stage, held=not difference, frozen=ledger.frozen, changed=difference
    )
    if session.engine.is_main:
        delta = Delta.of(ledger, base, after, arm=arm, stage=stage)
        delta.save(delta_path(session.folder, arm, stage))
    _record_stage(session, unit, (result, looks, budget), row, peak)
    looks.forget_file()
    if session.engine.is_main:
        checkpoint.unlink(missing_ok=True)


def _looks(session: Session, unit: tuple[ArmPlan, StagePlan]) -> StageLooks:
    path = looks_path(session.folder, unit[0].name, unit[1].name)
    steps = session.plan.settings(*unit).steps
    return StageLooks(session.plan.looks, path, steps, writes=session.engine.is_main)


def _budget(
    session: Session, trained: Trained, unit: tuple[ArmPlan, StagePlan]
) -> BudgetedStage | Unlimited:
    """What keeps the stage within the arm's drift budget; to be asked for before it is taught."""
    plan, spec = session.plan, session.plan.drift(unit[0])
    if spec is None:
        return Unlimited()
    gauge, steps = plan.gauges[spec.measure, spec.limit], plan.settings(*unit).steps
    return BudgetedStage(spec, gauge, trained, steps, session.engine)


def _bind_scores(session: Session, arm: ArmPlan) -> None:
    """Write into each stage's delta which scores its weights reached."""
    for stage in session.plan.stages:
        path, unit = delta_path(session.folder, arm.name, stage.name), (arm.name, stage.name)
        rows = [row for row in session.journal.record.scores if (row.arm, row.stage) == unit]
        sha256 = digest([row.model_dump(mode="json") for row in rows])
        # A user may have moved it away for its size.
        if rows and path.exists() and read_header(path).scores_sha256 != sha256:
            read_delta(path).with_scores(sha256).save(path)


def _run(
    session: Session,
    model: nn.Module,
    trained: Trained,
    unit: tuple[ArmPlan, StagePlan],
    watching: tuple[StageLooks, BudgetedStage | Unlimited],
) -> StageResult:
    looks, budget = watching
    settings = session.plan.settings(*unit)
    session.begin(f"{unit[0].name} · teaching {unit[1].name}", settings.steps)
    started = time.monotonic()
    here: list[StepResult] = []  # the steps of this session, after a resume

    def on_step(result: StepResult) -> None:
        here.append(result)
        speed = len(here) * settings.batch_size / (time.monotonic() - started)
        session.observer.step(result, speed)
        looks.after(result.step, model, (unit[0].name, unit[1].name))

    checkpoint = checkpoint_path(session.folder, unit[0].name, unit[1].name)
    seconds, asked = session.options.checkpoint_seconds, session.should_stop
    hooks = Hooks(checkpoint, seconds, on_step, asked, budget.guard)
    to_batch = partial(_batch, session)
    try:
        return run_stage(model, trained, (unit[1].rows, to_batch), settings, session.engine, hooks)
    except Diverged:
        found = _drift_rows(unit, looks, budget)
        session.journal.add(losses=_losses(unit, here), readings=found)
        raise


def _batch(session: Session, rows: Sequence[Encoded]) -> Batch:
    batch = collate(rows, session.plan.processing, padding_side="right")
    return batch.to(session.engine.device)


def _frozen_towers_without_gradient(
    session: Session, model: nn.Module, arm: ArmPlan
) -> AbstractContextManager[None]:
    """Frozen towers between the pixels and the first trained tower save nothing for backward."""
    towers = {tensor.tower for tensor in arm.selection.tensors}
    passed = ("vision", "audio", "connector")  # in the order that data passes them
    frozen = list(takewhile(lambda tower: tower not in towers, passed))
    prefixes = session.plan.anatomy.tower_prefixes(*frozen) if frozen else ()
    return without_gradient(model, prefixes)


def _record_stage(
    session: Session,
    unit: tuple[ArmPlan, StagePlan],
    taught: tuple[StageResult, StageLooks, BudgetedStage | Unlimited],
    ledger: LedgerRow,
    peak: int,
) -> None:
    arm, stage, (result, looks, budget) = unit[0], unit[1].name, taught
    cost = Cost(
        arm=arm.name,
        stage=stage,
        seconds=result.seconds,
        steps=len(result.steps),
        samples=result.samples,
        tokens=result.tokens,
        supervised_tokens=result.supervised_tokens,
        samples_per_second=result.samples / result.seconds,
        peak_bytes=peak,
        trained_numel=arm.selection.trained_numel,
        total_numel=arm.selection.total_numel,
        evaluation_seconds=looks.seconds + budget.seconds,
    )
    losses = _losses(unit, result.steps)
    order = DataOrder(arm=arm.name, stage=stage, sha256=result.order_sha256)
    found = _drift_rows(unit, looks, budget)
    session.journal.add(
        ledger=[ledger], cost=[cost], losses=losses, data_order=[order], readings=found
    )
    session.observer.ledger(ledger)


def _drift_rows(
    unit: tuple[ArmPlan, StagePlan], looks: StageLooks, budget: BudgetedStage | Unlimited
) -> list[dict[str, Any]]:
    where = {"arm": unit[0].name, "stage": unit[1].name}
    return looks.readings + [where | row for row in budget.rows]


def _losses(unit: tuple[ArmPlan, StagePlan], steps: Sequence[StepResult]) -> list[LossRow]:
    return [LossRow(arm=unit[0].name, stage=unit[1].name, **vars(step)) for step in steps]


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
