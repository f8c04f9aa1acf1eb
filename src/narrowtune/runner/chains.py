"""The models that a run's deltas give: each arm of each replicate, stage after stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from narrowtune.errors import InputError, Problems, nearest
from narrowtune.record import Record, read_record
from narrowtune.runner.folder import delta_path


@dataclass(frozen=True)
class Wanted:
    """Which models of a run are asked for; empty means all there are.

    Attributes:
        arms: Names of arms.
        stages: After which stages.
        replicates: Of a repeated experiment, as `order-1/seed-0`.
    """

    arms: Sequence[str] = ()
    stages: Sequence[str] = ()
    replicates: Sequence[str] = ()

    @property
    def by_name(self) -> bool:
        """Whether arms or stages are named: then each of them must be there."""
        return bool(self.arms or self.stages)


@dataclass(frozen=True)
class Chain:
    """One arm's stages in one replicate, up to the last one that is wanted."""

    folder: Path
    replicate: str
    arm: str
    stages: tuple[str, ...]
    wanted: frozenset[str]


def replicate_folders(run: Path, record: Record) -> list[tuple[str, Path]]:
    """Each replicate that was begun, by name; one without a name for a run that runs once."""
    if not record.replicates:
        return [("", run)]
    return [(row.name, run / row.name) for row in record.replicates]


def find_chains(run: Path, record: Record, wanted: Wanted) -> tuple[list[Chain], list[str]]:
    """Every arm of every replicate that is wanted, and what of a run is not trained yet.

    Raises:
        InputError: Names that do not exist, deltas of named arms or stages that are gone, or no
            delta at all.
    """
    _check_names(run, record, wanted)
    problems, found, missing = Problems(), [], _not_begun(record, wanted)
    for name, folder in replicate_folders(run, record):
        if wanted.replicates and name not in wanted.replicates:
            continue
        order = [stage.name for stage in read_record(folder).experiment.stages]
        stages = [one for one in order if not wanted.stages or one in wanted.stages]
        for arm in wanted.arms or [arm.name for arm in record.experiment.arms]:
            there = order[: order.index(stages[-1]) + 1]
            gone = [path for one in there if not (path := delta_path(folder, arm, one)).exists()]
            if gone and wanted.by_name:
                problems.add([f"{gone[0]} is missing: {_NOT_THERE}"])
            elif gone:
                missing.append(f"{gone[0]} is missing: what follows of {arm} is not explained")
                there = there[: order.index(gone[0].parent.name)]
            if there:
                found.append(Chain(folder, name, arm, tuple(there), frozenset(stages) & {*there}))
    problems.check()
    if not found:
        raise InputError(missing or f"{run} holds no model")
    return found, missing


_NOT_THERE = (
    "it was not trained that far, or it was moved; choose others with --arm, --stage and "
    "--replicate"
)


def _not_begun(record: Record, wanted: Wanted) -> list[str]:
    begun = {row.name for row in record.replicates}
    planned = [one.name for one in record.experiment.replicates] if begun else []
    return [
        f"{name} was not begun: it is not explained"
        for name in planned
        if name not in begun and not wanted.replicates
    ]


def _check_names(run: Path, record: Record, wanted: Wanted) -> None:
    experiment, problems = record.experiment, Problems()
    for kind, asked, there in (
        ("arm", wanted.arms, [arm.name for arm in experiment.arms]),
        ("stage", wanted.stages, [stage.name for stage in experiment.stages]),
        ("replicate", wanted.replicates, [name for name, _ in replicate_folders(run, record)]),
    ):
        problems.add(
            f"no {kind} of this run is called {name!r}: {nearest(name, there)}"
            for name in asked
            if name not in there
        )
    problems.check()
