"""Tests that share pictures or questions with training: refused, or noted where that is allowed."""

from __future__ import annotations

from narrowtune.data.overlap import Overlap, find_overlaps
from narrowtune.errors import Problems
from narrowtune.experiment import Experiment, HarnessSpec, Scored
from narrowtune.runner.reading import DataReader


def allowed_overlaps(
    experiment: Experiment, reader: DataReader, problems: Problems
) -> tuple[Overlap, ...]:
    """What tests share with any stage's training by permission; the rest goes to `problems`.

    It looks at all rows that `reader` has read, and at what harnesses will ask: another stage's
    training leaks as the own does.
    """
    places = _places(experiment)
    allowed = []
    for overlap in find_overlaps(reader.taught, reader.tested):
        place, spec = places[overlap.task]
        if overlap.kind in spec.allow_overlap:
            allowed.append(overlap)
        else:
            problems.add([_refusal(overlap, place)])
    return tuple(allowed)


def _places(experiment: Experiment) -> dict[str, tuple[str, Scored | HarnessSpec]]:
    """Each task's key in the experiment, as -o would name it."""
    stages = {s.name: (f"stages.{place}", s) for place, s in enumerate(experiment.stages)}
    held_out = {t.name: (f"held_out.{place}", t) for place, t in enumerate(experiment.held_out)}
    return {**stages, **held_out}


def _refusal(overlap: Overlap, place: str) -> str:
    return (
        f"task {overlap.task}: {overlap}; take them out of one of the two, or allow it with "
        f"{place}.allow_overlap={overlap.kind} (a key of the file, or -o)"
    )
