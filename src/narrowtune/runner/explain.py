"""Which part of what a run lost comes back when outputs are corrected, the weights left alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from narrowtune.delta import Snapshot, apply_delta, read_delta
from narrowtune.engine import deterministic
from narrowtune.errors import InputError, Problems, nearest
from narrowtune.evaluation import PreparedTask
from narrowtune.experiment import digest
from narrowtune.models.loading import check_device, load_model
from narrowtune.probes.classes import TokenClass, answer_class, finest_classes
from narrowtune.probes.offsets import without_common
from narrowtune.record import BASE, Record, predictions_path, read_record, write_predictions
from narrowtune.record.explanation import (
    EXPLANATION_NAME,
    PLAIN,
    Corrected,
    Explanation,
    answers_path,
    read_explanation,
    write_explanation,
)
from narrowtune.runner.corrections import Trial, Ways, prepare_ways
from narrowtune.runner.folder import delta_path
from narrowtune.runner.observer import Observer
from narrowtune.runner.plan import Plan

REVISION = 1
"""Raised whenever a correction would answer differently."""


@dataclass(frozen=True)
class Wanted:
    """Which models of a run are explained; empty means all.

    Attributes:
        arms: Names of arms.
        stages: After which stages.
        replicates: Of a repeated experiment, as `order-1/seed-0`.
    """

    arms: Sequence[str] = ()
    stages: Sequence[str] = ()
    replicates: Sequence[str] = ()


@dataclass(frozen=True)
class Chain:
    """One arm's stages in one replicate, up to the last one that is wanted."""

    folder: Path
    replicate: str
    arm: str
    stages: tuple[str, ...]
    wanted: frozenset[str]


def explain(
    plan: Plan,
    run: Path,
    wanted: Wanted | None = None,
    trial: Trial | None = None,
    *,
    device: str | None = None,
    observer: Observer | None = None,
) -> Explanation:
    """Answer held-out tasks under every correction, with the base and with the run's models.

    The answers land in `run/explain`, model by model; what is there already is not done again.

    Args:
        plan: Of the run's own experiment.
        run: Its folder.
        wanted: Which models.
        trial: Which corrections, and with how many calibration rows.
        device: A torch device; by default chosen.
        observer: Told of progress.

    Raises:
        InputError: The run is of other data, a name does not exist, deltas are missing, or
            `run/explain` was begun otherwise.
    """
    record, trial, watcher = read_record(run), trial or Trial(), observer or Observer()
    if record.digest != plan.digest:
        raise InputError(
            f"{run} was made from other data, or by another experiment, than what is there now "
            f"(digest {record.digest[:12]}, now {plan.digest[:12]})"
        )
    chains = list(_chains(run, record, wanted or Wanted()))
    where = check_device(device)
    ways, left_out = _all_ways(plan, _base_answers(run, record), trial)
    explanation = _begin(run / "explain", plan.digest_without_probes, trial, ways, left_out)
    work = _Work(plan, run / "explain", ways, where, watcher)
    with deterministic():
        work.base(_recorded(_replicate_folders(run, record)[0][1]))
        for chain in chains:
            work.follow(chain)
    return explanation


@dataclass(frozen=True)
class _Work:
    """What answering needs at hand."""

    plan: Plan
    folder: Path
    ways: Sequence[Ways]
    device: str
    observer: Observer

    def base(self, recorded: _Recorded) -> None:
        """Answer everything with the base; offsets are fitted to what it says here.

        Raises:
            InputError: Its weights are not those that the run began from.
        """
        model = self._load()
        if recorded.weights not in ("", Snapshot.of(model, {}).digest):
            raise InputError(
                f"{self.plan.model} holds other weights than when the run was made "
                f"(sha256 {recorded.weights[:12]} then); its deltas do not belong to them"
            )
        self._answer(model, ("", BASE, BASE), recorded, always="offsets")

    def follow(self, chain: Chain) -> None:
        """Answer everything with the models of one chain."""
        models = {stage: (chain.replicate, chain.arm, stage) for stage in chain.stages}
        if not any(self._todo(models[stage]) for stage in chain.wanted):
            return
        model = self._load()
        for stage in chain.stages:
            apply_delta(model, read_delta(delta_path(chain.folder, chain.arm, stage)))
            if stage in chain.wanted:
                self._answer(model, models[stage], _recorded(chain.folder))

    def _load(self) -> nn.Module:
        spec = self.plan.experiment.model
        return load_model(
            self.plan.model, spec.revision, spec.dtype, self.device, spec.trust_remote_code
        )

    def _todo(self, model: tuple[str, str, str]) -> list[tuple[Ways, str]]:
        return [
            (one, way)
            for one in self.ways
            for way in (PLAIN, *one.corrected)
            if not answers_path(self.folder, model, way, one.about.task).exists()
        ]

    def _answer(
        self, model: nn.Module, named: tuple[str, str, str], recorded: _Recorded, always: str = ""
    ) -> None:
        todo = self._todo(named)
        ahead = [
            (one, way)
            for one in self.ways
            for way in (PLAIN, *one.corrected)
            if way == always or (one, way) in todo
        ]
        if ahead:
            self.observer.phase(f"{' · '.join(part for part in named if part)}", len(ahead))
        for one, way in ahead:
            rows = recorded.answers(named[1:], one) if way == PLAIN else None
            if rows is None:
                ask = one.plain.score if way == PLAIN else one.corrected[way]
                rows = ask(model).samples
            write_predictions(answers_path(self.folder, named, way, one.about.task), rows)
            value = sum(float(row["score"]) for row in rows) / len(rows)
            self.observer.advance(f"{one.about.task} {way} {value:.1%}")


@dataclass(frozen=True)
class _Recorded:
    """A replicate's own predictions, the versions they were judged by, and its base's hash."""

    folder: Path
    versions: Mapping[tuple[str, str, str], str]
    weights: str

    def answers(self, model: Sequence[str], way: Ways) -> list[dict[str, Any]] | None:
        """The recorded answers to the scored rows; None where they were judged otherwise."""
        arm, stage = model
        path = predictions_path(self.folder, arm, stage, way.about.task)
        same = self.versions.get((arm, stage, way.about.task)) == way.about.version
        if not same or not path.is_file() or way.plain.metric.corpus is not None:
            return None
        rows = {row["id"]: row for row in _read_rows(path)}
        wanted = [example.id for example in way.plain.examples]
        return [rows[name] for name in wanted] if rows.keys() >= set(wanted) else None


def _recorded(folder: Path) -> _Recorded:
    record = read_record(folder)
    versions = {(s.arm, s.stage, s.task): s.task_version for s in record.scores}
    return _Recorded(folder, versions, record.environment.get("weights_sha256", ""))


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """A file of answers.

    Raises:
        InputError: It is damaged, naming each bad line.
    """
    rows, problems = [], Problems()
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), start=1):
        try:
            row = json.loads(line)
            rows.append(row | {"id": row["id"], "prediction": str(row["prediction"])})
        except (ValueError, TypeError, KeyError) as error:
            problems.add([f"{path}:{number} is not a prediction ({error!r})"])
    problems.check()
    return rows


def _replicate_folders(run: Path, record: Record) -> list[tuple[str, Path]]:
    if not record.replicates:
        return [("", run)]
    return [(row.name, run / row.name) for row in record.replicates]


def _chains(run: Path, record: Record, wanted: Wanted) -> Iterator[Chain]:
    """Every arm of every replicate that is wanted and has its deltas.

    Raises:
        InputError: Names that do not exist, or a delta that is gone.
    """
    folders = _replicate_folders(run, record)
    arms = [arm.name for arm in record.experiment.arms]
    stages = [stage.name for stage in record.experiment.stages]
    problems = Problems()
    for kind, asked, there in (
        ("arm", wanted.arms, arms),
        ("stage", wanted.stages, stages),
        ("replicate", wanted.replicates, [name for name, _ in folders]),
    ):
        problems.add(
            f"no {kind} of this run is called {name!r}: {nearest(name, there)}"
            for name in asked
            if name not in there
        )
    problems.check()
    for name, folder in folders:
        if wanted.replicates and name not in wanted.replicates:
            continue
        order = [stage.name for stage in read_record(folder).experiment.stages]
        for arm in wanted.arms or arms:
            with problems.collect():
                yield _chain(folder, name, arm, order, wanted.stages or order)
    problems.check()


def _chain(
    folder: Path, replicate: str, arm: str, order: Sequence[str], wanted: Sequence[str]
) -> Chain:
    last = max(order.index(stage) for stage in wanted)
    stages = tuple(order[: last + 1])
    gone = [path for stage in stages if not (path := delta_path(folder, arm, stage)).exists()]
    if gone:
        raise InputError(
            f"{gone[0]} is missing: {arm} was not trained that far, or it was moved; choose others "
            "with --arm, --stage and --replicate"
        )
    return Chain(folder, replicate, arm, stages, frozenset(wanted))


def _all_ways(
    plan: Plan, answers: Mapping[str, Mapping[str, str]], trial: Trial
) -> tuple[list[Ways], dict[str, str]]:
    classes = without_common(_classes(plan))
    ways: list[Ways] = []
    left_out: dict[str, str] = {}
    for task in plan.tasks:
        if task.role != "held_out":
            continue
        if not isinstance(task.prepared, PreparedTask):
            left_out[task.name] = "a harness asks it in its own way"
            continue
        try:
            said = answers.get(task.name, {})
            ways.append(prepare_ways(task.name, task.prepared, said, classes, trial))
        except InputError as error:
            left_out[task.name] = error.problems[0]
    if not ways:
        reasons = [f"task {name}: {reason}" for name, reason in left_out.items()]
        raise InputError(reasons or "the run has no held-out task, so nothing to explain")
    return ways, left_out


def _classes(plan: Plan) -> list[TokenClass]:
    processing = plan.processing
    ends = processing.end_token_ids
    taught = [answer_class(stage.name, stage.rows, ends) for stage in plan.stages]
    return [*finest_classes(processing.tokenizer), TokenClass("end", tuple(sorted(ends))), *taught]


def _base_answers(run: Path, record: Record) -> dict[str, dict[str, str]]:
    """What the base answered, by task and sample id."""
    _, folder = _replicate_folders(run, record)[0]
    found = {}
    for task in record.experiment.held_out:
        path = predictions_path(folder, BASE, BASE, task.name)
        if path.is_file():
            found[task.name] = {row["id"]: str(row["prediction"]) for row in _read_rows(path)}
    if not found:
        raise InputError(f"{run} has no answers of the base; add base to the experiment's evaluate")
    return found


def _begin(
    folder: Path, results: str, trial: Trial, ways: Sequence[Ways], left_out: dict[str, str]
) -> Explanation:
    """The explanation as asked; one that is there already must be of the same kind.

    Raises:
        InputError: It is not.
    """
    tasks = tuple(one.about for one in ways)
    about = [one.model_dump(mode="json", exclude={"told", "unavailable"}) for one in tasks]
    asked = digest([REVISION, results, trial.calibration, about])
    if (folder / EXPLANATION_NAME).exists():
        old = read_explanation(folder)
        if old.digest != asked:
            raise InputError(
                f"{folder} holds an explanation made otherwise (calibration {old.calibration}); "
                "move it away, or ask as before"
            )
        tasks = tuple(_added(*pair) for pair in zip(old.tasks, tasks, strict=True))
    new = Explanation(digest=asked, calibration=trial.calibration, tasks=tasks, left_out=left_out)
    write_explanation(new, folder)
    return new


def _added(old: Corrected, new: Corrected) -> Corrected:
    """A task with the corrections that were asked for earlier and those asked for now."""
    told, unavailable = old.told | new.told, old.unavailable | new.unavailable
    return new.model_copy(update={"told": told, "unavailable": unavailable})
