"""The untouched model's scores and readings, taken from a run that has them already."""

from __future__ import annotations

import shutil
from pathlib import Path

from narrowtune.record import BASE, Score, predictions_path, read_record
from narrowtune.runner.environment import HARDWARE
from narrowtune.runner.session import Session


def borrow_base(session: Session) -> None:
    """Copy the base's scores, answers and readings from `session.base_from`.

    Replicates share model and tests, so scoring the base again would give the same bits. On other
    hardware, or with other packages, it might not: then nothing is copied.
    """
    source, journal = session.base_from, session.journal
    if source is None:
        return
    earlier = read_record(source)
    same = ("model_sha256", "dtype", *HARDWARE)
    if any(earlier.environment.get(k) != journal.record.environment.get(k) for k in same):
        return
    tasks = {task.name: task.prepared for task in session.plan.tasks}
    wanted = {name: (task.version, task.size) for name, task in tasks.items()}
    for score in earlier.scores:
        same_task = wanted.get(score.task) == (score.task_version, score.n)
        mine = score.arm == BASE and same_task
        if mine and not journal.has("scores", arm=BASE, stage=BASE, task=score.task):
            _borrow(session, source, score)
    readings = [row for row in earlier.readings if row.get("arm") == BASE]
    if readings and not journal.has("readings", arm=BASE):
        journal.add(readings=readings)


def _borrow(session: Session, source: Path, score: Score) -> None:
    place = (BASE, BASE, score.task)
    theirs = predictions_path(source, *place)
    if not theirs.is_file():
        return  # a user may have taken it away; the base answers again
    if session.engine.is_main:
        answers = predictions_path(session.folder, *place)
        answers.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(theirs, answers)
    session.journal.add(scores=[score])
