"""A whole experiment: once, or every order with every seed, each a run in a folder of its own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from narrowtune.engine import Engine
from narrowtune.errors import NarrowTuneError
from narrowtune.experiment import Replicate
from narrowtune.models.loading import check_device
from narrowtune.record import RECORD_NAME, Record, ReplicateRow, Status, read_record, write_record
from narrowtune.runner.environment import dtype_notes
from narrowtune.runner.execute import Options, Setting, nothing_left, run_once
from narrowtune.runner.folder import claim
from narrowtune.runner.observer import Observer
from narrowtune.runner.plan import Plan
from narrowtune.training import Interrupted


def run(
    plan: Plan,
    out: str | Path,
    *,
    resume: bool = False,
    options: Options | None = None,
    observer: Observer | None = None,
) -> Record:
    """Carry the plan out and return its record, which also lies in `out`.

    An experiment with `orders` or `seeds` leaves one record per replicate, in
    `order-N/seed-S` below `out`, and one that gathers them.

    Args:
        plan: What to do.
        out: A folder that is new or empty, or holds this very run when `resume` is set.
        resume: Go on where an interrupted run stopped, to the same bits. Orders and seeds may
            have been added to a repeated experiment since, and probes to one that had none: they
            change no result, and are read on the models that the run has left.
        options: What cannot change a result.
        observer: Told of progress.

    Raises:
        InputError: If `out` holds something else, or was begun with another model.
        RunFailed: If the loss became NaN; the record says so and keeps all before it.
        Interrupted: On Ctrl-C; the run can be resumed.
    """
    folder, chosen = Path(out), options or Options()
    earlier = claim(folder, plan.digest, resume, lambda record: _part_of(record, plan))
    engine = Engine(check_device(chosen.device))
    engine.wait()  # nobody writes the record before everybody has seen the folder
    setting = Setting(engine, chosen, observer or Observer())
    for note in dtype_notes(plan.experiment.model.dtype, str(engine.device)):
        setting.observer.note(note)
    if plan.experiment.repeated:
        return _run_replicates(plan, folder, setting)
    return _go_on(plan, folder, earlier, setting, chosen.base_from)


def _part_of(record: Record, plan: Plan) -> bool:
    """Whether a record holds a part of the plan and nothing else.

    Orders, seeds or first probes were added.
    """
    if not record.replicates:
        return _adds_probes(record, plan)
    wanted = {one.name: plan.alone(one) for one in plan.experiment.replicates}
    return all(
        row.name in wanted
        and row.digest in (wanted[row.name].digest, wanted[row.name].digest_without_probes)
        for row in record.replicates
    )


def _adds_probes(record: Record, plan: Plan) -> bool:
    return record.digest == plan.digest_without_probes


def _go_on(
    plan: Plan, folder: Path, earlier: Record | None, setting: Setting, base_from: Path | None
) -> Record:
    if earlier is not None and earlier.digest != plan.digest:  # probes were added
        facts = {"experiment": plan.experiment, "digest": plan.digest, "data": plan.files}
        earlier = earlier.model_copy(update=facts | {"plan": plan.to_dict(), "status": "running"})
    if earlier is not None and nothing_left(earlier, plan, folder, setting.options):
        return earlier
    return run_once(plan, folder, earlier, setting, base_from)


def _run_replicates(plan: Plan, folder: Path, setting: Setting) -> Record:
    """Every replicate in turn; the gathered record is written anew after each."""
    replicates = plan.experiment.replicates
    done: list[Path] = []
    try:
        for place, replicate in enumerate(replicates, start=1):
            setting.observer.replicate(replicate, place, len(replicates))
            _gather(plan, folder, setting, "running")
            alone, home = plan.alone(replicate), folder / replicate.name
            begun = (home / RECORD_NAME).exists()
            earlier = claim(home, alone.digest, begun, partial(_adds_probes, plan=alone))
            setting.engine.wait()
            _go_on(alone, home, earlier, setting, done[0] if done else None)
            done.append(home)
    except (KeyboardInterrupt, Interrupted) as error:
        _gather(plan, folder, setting, "interrupted", str(error))
        raise
    except Exception as error:
        wrong = str(error) if isinstance(error, NarrowTuneError) else repr(error)
        _gather(plan, folder, setting, "failed", f"{replicate.name}: {wrong}")
        raise
    return _gather(plan, folder, setting, "complete")


def _gather(
    plan: Plan, folder: Path, setting: Setting, status: Status, error: str | None = None
) -> Record:
    """One record of what all replicates hold so far, written into `folder`."""
    setting.engine.wait()
    found = [
        (replicate, read_record(folder / replicate.name))
        for replicate in plan.experiment.replicates
        if (folder / replicate.name / RECORD_NAME).exists()
    ]
    kinds = ("scores", "ledger", "cost", "data_order", "diverged")
    gathered: dict[str, Any] = {kind: _rows(found, kind) for kind in kinds}
    gathered["readings"] = tuple(
        row | {"replicate": replicate.name} for replicate, one in found for row in one.readings
    )
    record = Record(
        status=status,
        error=error,
        experiment=plan.experiment,
        digest=plan.digest,
        environment=found[0][1].environment if found else {},
        plan=plan.to_dict(),
        data=plan.files,
        replicates=tuple(_row(*one) for one in found),
        **gathered,
    )
    if setting.engine.is_main:
        write_record(record, folder)
    return record


def _row(replicate: Replicate, record: Record) -> ReplicateRow:
    return ReplicateRow(
        name=replicate.name,
        order=replicate.order,
        seed=replicate.seed,
        status=record.status,
        digest=record.digest,
    )


def _rows(found: list[tuple[Replicate, Record]], kind: str) -> tuple[object, ...]:
    return tuple(
        row.model_copy(update={"replicate": replicate.name})
        for replicate, record in found
        for row in getattr(record, kind)
    )
