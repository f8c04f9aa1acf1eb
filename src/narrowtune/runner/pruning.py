"""Cells that are given up, diverged ones: recorded and left, so that those after them go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from narrowtune.record import DivergedRow
from narrowtune.runner.folder import checkpoint_path, looks_path
from narrowtune.runner.plan import ArmPlan
from narrowtune.training import Abandoned

if TYPE_CHECKING:
    from narrowtune.runner.session import Session


@contextmanager
def prune_diverged(session: Session, arm: ArmPlan) -> Iterator[None]:
    """Keep what is done inside from ending the run when a cell diverges; the record says why.

    Its remaining stages are not taught, and a resumed run does not try again.

    Raises:
        Abandoned: If the arm is no cell of a sweep: nothing else was asked for in its place.
    """
    try:
        with _out_of_memory_told(arm):
            yield
    except Abandoned as error:
        if arm.spec.of is None:
            raise
        taught = {row.stage for row in session.journal.record.ledger if row.arm == arm.name}
        stage = next(one.name for one in session.plan.stages if one.name not in taught)
        row = DivergedRow(arm=arm.name, stage=stage, step=error.step, reason=error.reason)
        session.journal.add(diverged=[row])
        session.observer.note(f"{arm.name} is given up, while taught {stage}: {error}; going on")
        if session.engine.is_main:
            for path in (checkpoint_path, looks_path):
                path(session.folder, arm.name, stage).unlink(missing_ok=True)


@contextmanager
def _out_of_memory_told(arm: ArmPlan) -> Iterator[None]:
    """A cell that does not fit the device is given up like one that diverges."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        if arm.spec.of is None:
            raise
        torch.cuda.empty_cache()
        raise Abandoned(f"out of memory ({str(error).partition('.')[0]})", 1) from error
