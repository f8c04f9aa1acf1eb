"""One stage of an arm: its steps with all that goes along, the ledger, the delta, the record."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from narrowtune.data.batching import Batch, collate
from narrowtune.data.encoding import Encoded
from narrowtune.delta import Delta, Ledger
from narrowtune.engine import peak_bytes, reset_peak
from narrowtune.models.packed import attending_by_segments
from narrowtune.record import Cost, DataOrder, LedgerRow, LossRow
from narrowtune.runner.budget import BudgetedStage, Unlimited
from narrowtune.runner.during import StageLooks
from narrowtune.runner.folder import adapter_path, checkpoint_path, delta_path, looks_path
from narrowtune.runner.methods import StageMethods
from narrowtune.runner.plan import ArmPlan, StagePlan
from narrowtune.runner.session import Learner, Session, Trained
from narrowtune.runner.sparing import spared
from narrowtune.training import (
    Abandoned,
    Guards,
    Hooks,
    Settings,
    StageResult,
    StepResult,
    run_stage,
)
from narrowtune.training.packing import Packing
from narrowtune.training.padding_free import PaddingFree
from narrowtune.training.stage import Collate

_TRIED = 2  # samples


def teach_stage(session: Session, learner: Learner, unit: tuple[ArmPlan, StagePlan]) -> None:
    """One stage of an arm, from its first step or its checkpoint to its delta in the folder."""
    arm, stage, model = unit[0].name, unit[1].name, learner.model
    session.journal.forget_teaching(arm, stage)  # of an attempt that failed
    ledger = Ledger(model, learner.selection)
    reset_peak(session.engine.device)
    model.train()
    watching = _Watching(
        _looks(session, unit),
        _budget(session, learner.trained, unit),
        _methods(session, learner, unit),
    )
    trial = _batch(session, session.plan.rows(*unit)[:_TRIED])
    asked, anatomy = session.plan.settings(*unit), session.plan.anatomy
    knobs = {
        "checkpointing": asked.activation_checkpointing,
        "compiling": asked.torch_compile,
    }
    with spared(model, anatomy, unit[0].towers, trial, **knobs):
        result = _run(session, model, unit, watching)
    model.eval()
    if idle := result.unreached:
        session.observer.note(
            f"note: no gradient reached {len(idle)} trained parameters, such as {idle[0]}"
        )
    watching.methods.settle(model, *_adapters(session, learner, unit))
    for broken in watching.budget.end(model):
        session.observer.note(f"{arm} after {stage}: {broken}")
    peak = peak_bytes(session.engine.device)
    after = ledger.look()
    difference = ledger.changed(after)
    row = LedgerRow(
        arm=arm, stage=stage, held=not difference, frozen=ledger.frozen, changed=difference
    )
    if session.engine.is_main:
        delta = Delta.of(ledger, learner.came_from, after, arm=arm, stage=stage)
        delta.save(delta_path(session.folder, arm, stage))
    _record_stage(session, unit, (result, watching), row, peak)
    watching.looks.forget_file()
    if session.engine.is_main:
        checkpoint_path(session.folder, arm, stage).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Watching:
    """What goes along with a stage while it is taught."""

    looks: StageLooks
    budget: BudgetedStage | Unlimited
    methods: StageMethods

    def rows(self, unit: tuple[ArmPlan, StagePlan]) -> list[dict[str, Any]]:
        """What they have read, for the record."""
        where = {"arm": unit[0].name, "stage": unit[1].name}
        return self.looks.readings + [
            where | row for row in (*self.budget.rows, *self.methods.rows)
        ]


def _methods(session: Session, learner: Learner, unit: tuple[ArmPlan, StagePlan]) -> StageMethods:
    """The arm's methods at work from here on; the model may have adapters now."""
    seed = session.plan.settings(*unit).seed
    methods = StageMethods(unit[0], learner.trained, learner.base, seed)
    methods.begin(learner.model, session.plan.earlier(unit[1]), partial(_batch, session))
    return methods


def _adapters(
    session: Session, learner: Learner, unit: tuple[ArmPlan, StagePlan]
) -> tuple[Path | None, str]:
    """Where the stage's adapters are kept, and the model that they belong on."""
    arm, stage = unit
    before = [one.name for one in session.plan.stages if one.number < stage.number]
    on = learner.came_from.id + (f" taught {', '.join(before)} by {arm.name}" if before else "")
    here = adapter_path(session.folder, arm.name, stage.name)
    return (here if session.engine.is_main else None), on


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


def _run(
    session: Session, model: nn.Module, unit: tuple[ArmPlan, StagePlan], watching: _Watching
) -> StageResult:
    settings, methods = session.plan.settings(*unit), watching.methods
    session.begin(f"{unit[0].name} · teaching {unit[1].name}", settings.steps)
    started = time.monotonic()
    here: list[StepResult] = []  # the steps of this session, after a resume

    def on_step(result: StepResult) -> None:
        here.append(result)
        speed = len(here) * settings.batch_size / (time.monotonic() - started)
        session.observer.step(result, speed)
        watching.looks.after(result.step, model, (unit[0].name, unit[1].name))

    guards = [watching.budget.guard, *methods.guards]
    hooks = Hooks(
        checkpoint_path(session.folder, unit[0].name, unit[1].name),
        session.options.checkpoint_seconds,
        on_step,
        session.should_stop,
        guards[0] if len(guards) == 1 else Guards(guards),
        methods.objective,
        lambda lengths, settings: session.plan.order(*unit, settings),
    )
    packed = settings.share_images or settings.padding_free
    try:
        with attending_by_segments(model) if packed else nullcontext():
            rows = session.plan.rows(*unit)
            data = (rows, _batches(session, model, rows, settings))
            return run_stage(model, methods.named, data, settings, session.engine, hooks)
    except Abandoned:
        session.journal.add(losses=_losses(unit, here), readings=watching.rows(unit))
        raise


def _batches(
    session: Session, model: nn.Module, rows: Sequence[Encoded], settings: Settings
) -> Collate:
    """How the stage's rows become batches: such that share images, without padding, or padded."""
    make: Callable[[Sequence[Encoded]], Batch]
    if settings.share_images:
        make = Packing(model, session.plan.processing)
    elif settings.padding_free:
        make = PaddingFree(model, session.plan.processing, rows, session.observer.note)
    else:
        return partial(_batch, session)
    return lambda some: make(some).to(session.engine.device)


def _batch(session: Session, rows: Sequence[Encoded]) -> Batch:
    batch = collate(rows, session.plan.processing, padding_side="right")
    return batch.to(session.engine.device)


def _record_stage(
    session: Session,
    unit: tuple[ArmPlan, StagePlan],
    taught: tuple[StageResult, _Watching],
    ledger: LedgerRow,
    peak: int,
) -> None:
    arm, stage, (result, watching) = unit[0], unit[1].name, taught
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
        trained_numel=arm.trained_numel,
        total_numel=arm.selection.total_numel,
        evaluation_seconds=watching.looks.seconds + watching.budget.seconds,
    )
    losses = _losses(unit, result.steps)
    order = DataOrder(arm=arm.name, stage=stage, sha256=result.order_sha256)
    session.journal.add(
        ledger=[ledger],
        cost=[cost],
        losses=losses,
        data_order=[order],
        readings=watching.rows(unit),
    )
    session.observer.ledger(ledger)


def _losses(unit: tuple[ArmPlan, StagePlan], steps: Sequence[StepResult]) -> list[LossRow]:
    return [LossRow(arm=unit[0].name, stage=unit[1].name, **vars(step)) for step in steps]
