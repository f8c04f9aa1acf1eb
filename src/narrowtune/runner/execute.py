"""Doing what the plan says: base scores, then every arm through every stage, all recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from narrowtune.delta import Snapshot
from narrowtune.engine import Engine, deterministic
from narrowtune.errors import InputError, RunFailed
from narrowtune.experiment import digest
from narrowtune.models.loading import choose_dtype
from narrowtune.models.quantization import computed_by
from narrowtune.record import BASE, Record
from narrowtune.runner.arm import saves_model, score_all, teach_arm
from narrowtune.runner.base import borrow_base
from narrowtune.runner.drift import read_probes
from narrowtune.runner.environment import HARDWARE, environment
from narrowtune.runner.features import KeptFeatures
from narrowtune.runner.folder import model_path
from narrowtune.runner.interrupt import stop_on_signal
from narrowtune.runner.journal import Journal
from narrowtune.runner.noise import measure_noise
from narrowtune.runner.observer import Observer
from narrowtune.runner.plan import Plan
from narrowtune.runner.session import Session, load_base
from narrowtune.training import Diverged, Interrupted


@dataclass(frozen=True)
class Options:
    """What cannot change a result.

    Attributes:
        device: A torch device; the GPU where there is one, otherwise the CPU.
        checkpoint_seconds: How often a stage in progress is saved.
        feature_cache: Where features of frozen image encoders are kept besides in memory: a folder,
            or "off" to keep none at all; in memory alone where nothing is given.
        feature_cache_gib: The most that they take in memory, and the most in the folder.
        base_from: Folder of a run of the same model, whose scores of the base are taken over for
            tasks of the same version and size.
        stop: Asked between steps and tasks; True ends the run as Ctrl-C does, to be resumed.
        save_models: Whether each arm's finished model is written as a folder that
            `from_pretrained` loads. The trained tensors of every stage are kept in any case.
    """

    device: str | None = None
    checkpoint_seconds: float = 60.0
    save_models: bool = True
    base_from: Path | None = None
    stop: Callable[[], bool] = lambda: False
    feature_cache: str | None = None
    feature_cache_gib: float = 1.0


@dataclass(frozen=True)
class Setting:
    """Where and how a run happens, and who watches: nothing here can change a result."""

    engine: Engine
    options: Options
    observer: Observer

    @cached_property
    def features(self) -> KeptFeatures:
        """What image encoders gave, for all replicates."""
        options = self.options
        return KeptFeatures.at(options.feature_cache, options.feature_cache_gib, self.observer.note)


def run_once(
    plan: Plan, folder: Path, earlier: Record | None, setting: Setting, base_from: Path | None
) -> Record:
    """Carry out the plan of one replicate and return its record, which also lies in `folder`.

    Args:
        plan: What to do.
        folder: Its folder, claimed.
        earlier: The record that lies there, to go on with.
        setting: What cannot change a result.
        base_from: Folder of a finished replicate, whose scores of the base are this one's too.
    """
    engine = setting.engine
    record = earlier or Record(
        experiment=plan.experiment, digest=plan.digest, plan=plan.to_dict(), data=plan.files
    )
    journal = Journal(record, folder, writes=engine.is_main)
    session = Session(
        plan, folder, engine, setting.options, journal, setting.observer, setting.features
    )
    session.base_from = base_from
    _watched(session)
    return journal.record


def nothing_left(record: Record, plan: Plan, folder: Path, options: Options) -> bool:
    """Whether a record is complete, and so are the models that are to lie beside it."""
    pruned = {row.arm for row in record.diverged}
    arms = [
        arm.name
        for arm in plan.arms
        if saves_model(plan, arm, options.save_models) and arm.name not in pruned
    ]
    models = [model_path(folder, arm) for arm in arms]
    return record.status == "complete" and all(model.exists() for model in models)


def _watched(session: Session) -> None:
    """Run to the end, or leave a valid record that says why not."""
    journal = session.journal
    try:
        with deterministic(), stop_on_signal(session.observer.note) as stop:
            session.should_stop = lambda: stop() or session.options.stop()
            _everything(session)
    except (KeyboardInterrupt, Interrupted) as error:
        journal.status("interrupted", str(error) or "interrupted")
        raise Interrupted(str(error) or "interrupted") from error
    except InputError as error:  # mended by the user, it can go on
        journal.status("interrupted", str(error))
        raise
    except Diverged as error:
        journal.status("failed", f"{session.doing}: {error}")
        raise RunFailed(
            f"{session.doing}: {error}. The record in {session.folder} keeps all before it. "
            "Resuming would fail again: lower training.learning_rate and use a new folder"
        ) from error
    except Exception as error:
        journal.status("failed", f"{session.doing}: {type(error).__name__}: {error}")
        raise
    journal.status("complete")


def _compare(before: dict[str, Any], now: dict[str, Any], observer: Observer) -> None:
    """Refuse to go on with other weights or another dtype; mention other hardware.

    Raises:
        InputError: If the run was begun with what would mix two different results.
    """
    fixed = [key for key in ("model_sha256", "dtype") if before.get(key, now[key]) != now[key]]
    if fixed:
        raise InputError(
            f"this run was begun with another {' and '.join(fixed)}: "
            + "; ".join(f"{key} was {before[key]}, is {now[key]}" for key in fixed)
            + ". Go on with what it was begun with, or start a new run with --out"
        )
    for key in HARDWARE:
        if before.get(key, now[key]) != now[key]:
            observer.note(f"note: {key} was {before[key]}, is {now[key]}; bits may differ")


def _same_versions(session: Session) -> None:
    """Refuse to add scores to a record whose earlier ones were judged otherwise.

    Raises:
        InputError: With every task whose version has changed.
    """
    now = {task.name: task.prepared.version for task in session.plan.tasks}
    before = {score.task: score.task_version for score in session.journal.record.scores}
    problems = [
        f"task {task} was judged by {version} when this run was begun, and is by {now[task]} now; "
        "go on with the packages it was begun with, or start a new run with --out"
        for task, version in before.items()
        if now.get(task, version) != version
    ]
    if problems:
        raise InputError(problems)


def _everything(session: Session) -> None:
    plan, journal = session.plan, session.journal
    journal.status("running")
    spec = plan.experiment.model
    model = load_base(session)
    facts = environment(session.engine.device, session.engine.processes)
    facts["dtype"] = str(choose_dtype(spec.dtype, str(session.engine.device)))
    snapshot = Snapshot.of(model, {})
    if plan.quantization is not None:
        facts["quantization"] = f"{plan.quantization}, by {computed_by()}"
    facts["model_sha256"] = digest(dict(snapshot.whole))
    facts["weights_sha256"] = snapshot.digest  # what deltas call their base by
    _compare(journal.record.environment, facts, session.observer)
    _same_versions(session)
    journal.environment(facts | {"sessions": journal.record.environment.get("sessions", 0) + 1})
    with session.features.answering(plan, model, session.engine.device):
        _look_at_base(session, model)
    del model
    for arm in plan.arms:
        teach_arm(session, arm)


def _look_at_base(session: Session, model: nn.Module) -> None:
    plan = session.plan
    if "base" in plan.experiment.evaluate:
        borrow_base(session)
        score_all(session, model, BASE, BASE)
        measure_noise(session, model)
    if plan.probing is not None:
        plan.probing.remember(model)
        for looks in plan.looks:
            looks.watch.remember(model)
        read_probes(session, model, BASE, BASE)
    for gauge in plan.gauges.values():
        gauge.remember(model)
