"""The untouched model's scores and readings, taken from a replicate that has them already."""

from __future__ import annotations

import shutil

from narrowtune.record import BASE, Score, predictions_path, read_record
from narrowtune.runner.arm import Session
from narrowtune.runner.environment import HARDWARE


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
    for score in earlier.scores:
        if score.arm == BASE and not journal.has("scores", arm=BASE, stage=BASE, task=score.task):
            _borrow(session, score)
    readings = [row for row in earlier.readings if row.get("arm") == BASE]
    if readings and not journal.has("readings", arm=BASE):
        journal.add(readings=readings)


def _borrow(session: Session, score: Score) -> None:
    assert session.base_from is not None
    place = (BASE, BASE, score.task)
    if session.engine.is_main:
        answers = predictions_path(session.folder, *place)
        answers.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(predictions_path(session.base_from, *place), answers)
    session.journal.add(scores=[score])
