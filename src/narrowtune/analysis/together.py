"""Several runs of the same tasks read as one: their arms side by side, replicate by replicate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from narrowtune.analysis.matrix import held_out_names, score_table, stage_names, target_names
from narrowtune.analysis.replicates import Run, Runs
from narrowtune.analysis.samples import Samples
from narrowtune.analysis.sides import Arms, arms_by_part
from narrowtune.errors import InputError
from narrowtune.record import BASE, Record, Score

Key = tuple[tuple[str, ...], int]
_ROWS = ("scores", "readings", "ledger", "cost", "losses", "data_order", "diverged")


@dataclass(frozen=True)
class Part:
    """One run's folder: what it is called, its record, and its replicates, or the run itself."""

    name: str
    record: Record
    runs: Runs


def together(parts: Sequence[Part]) -> tuple[Record, list[Run]]:
    """The parts as one run with the arms of all; of one part, itself.

    A cell computed alone has the numbers it has among others, so nothing changes but what can be
    compared. Arms of one name that were taught otherwise are told apart by what differs, as cells
    of that name; the very same arm counts once. Replicates that only some parts have are left out.

    Raises:
        InputError: If base, tasks, their versions or what is taught differ, saying in which parts;
            or if no replicate is in all of them.
    """
    first, *others = parts
    if problems := [problem for other in others for problem in _differences(first, other)]:
        raise InputError(problems)
    arms = arms_by_part([(part.name, part.record.experiment) for part in parts])
    tables = [{_key(run): run for run in part.runs} for part in parts]
    shared = [key for key in tables[0] if all(key in table for table in tables)]
    if not shared:
        names = ", ".join(part.name for part in parts)
        raise InputError(f"no order and seed is in all of {names}: there is nothing to compare")
    runs = [_joined_run([table[key] for table in tables], arms) for key in shared]
    return _joined([part.record for part in parts], arms), runs


def _key(run: Run) -> Key:
    return stage_names(run.record), run.record.experiment.seed


def _joined_run(runs: Runs, arms: Sequence[Arms]) -> Run:
    samples = {
        (own.get(arm, arm), stage, task): rows
        for run, own in reversed([*zip(runs, _new_names(arms), strict=True)])
        for (arm, stage, task), rows in run.samples.rows.items()
        if arm == BASE or arm in own
    }
    record = _joined([run.record for run in runs], arms)
    return Run(record, Samples(samples), runs[0].order, runs[0].seed)


def _joined(records: Sequence[Record], arms: Sequence[Arms]) -> Record:
    specs = tuple(spec for own in arms for spec in own.values())
    rows = {
        kind: tuple(
            row
            for place, (record, own) in enumerate(zip(records, _new_names(arms), strict=True))
            for row in _renamed(getattr(record, kind), own, keep_base=place == 0)
        )
        for kind in _ROWS
    }
    unfinished = [record for record in records if record.status != "complete"]
    experiment = records[0].experiment.model_copy(update={"arms": specs})
    facts: dict[str, Any] = {"experiment": experiment, "status": "complete", **rows}
    return records[0].model_copy(
        update=facts | ({"status": unfinished[0].status} if unfinished else {})
    )


def _new_names(arms: Sequence[Arms]) -> list[dict[str, str]]:
    return [{old: spec.name for old, spec in own.items()} for own in arms]


def _renamed(rows: Sequence[Any], names: Mapping[str, str], keep_base: bool) -> Iterator[Any]:
    for row in rows:
        arm = row["arm"] if isinstance(row, dict) else row.arm
        if arm == BASE and keep_base:
            yield row
        elif arm in names and isinstance(row, dict):
            yield row | {"arm": names[arm]}
        elif arm in names:
            yield row.model_copy(update={"arm": names[arm]})


def _differences(one: Part, other: Part) -> list[str]:
    """What keeps two runs from being compared, each with both sides named."""
    problems = [
        *_differing(one, other, "the base's {}", _base),
        *_differing(one, other, "the task {}", _tasks),
        *_differing(one, other, "what teaches {} (contents, limit)", _data),
        *_differing(one, other, "the version of the task {}", _versions),
    ]
    # Of another base or test, other scores are no news.
    return problems or [*_differing(one, other, "the base's score on {} (value, n)", _scores)]


def _differing(
    one: Part, other: Part, what: str, of: Callable[[Part], Mapping[str, object]]
) -> Iterator[str]:
    mine, theirs = of(one), of(other)
    for key in {**mine, **theirs}:
        if mine.get(key) != theirs.get(key):
            told = f"{mine.get(key, 'none')} and {theirs.get(key, 'none')}"
            yield f"{one.name} and {other.name} differ in {what.format(key)}: {told}"


def _base(part: Part) -> dict[str, object]:
    facts = part.runs[0].record.environment if part.runs else part.record.environment
    model = part.record.experiment.model
    # Weights say which model it is, wherever it lies.
    found: dict[str, object] = {"dtype": facts.get("dtype", model.dtype)}
    return found | {"weights": facts.get("weights_sha256", model.id)}


def _tasks(part: Part) -> dict[str, object]:
    record = part.record
    sides = (stage_names(record), "taught"), (held_out_names(record), "held out")
    return {task: role for names, role in sides for task in names}


def _data(part: Part) -> dict[str, object]:
    contents = {file.path: file.sha256[:12] for file in part.record.data}
    return {
        stage.name: (contents.get(stage.train, stage.train), stage.train_limit)
        for stage in part.record.experiment.stages
    }


def _versions(part: Part) -> dict[str, object]:
    return {task: score.task_version for task, score in _base_scores(part).items()}


def _scores(part: Part) -> dict[str, object]:
    return {task: (round(one.value, 6), one.n) for task, one in _base_scores(part).items()}


def _base_scores(part: Part) -> dict[str, Score]:
    record = part.runs[0].record if part.runs else part.record
    table, names = score_table(record), (*target_names(record), *held_out_names(record))
    return {task: table[BASE, BASE, task] for task in names if (BASE, BASE, task) in table}
