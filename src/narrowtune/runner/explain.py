"""Which part of what a run lost comes back when outputs are corrected, the weights left alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from narrowtune.delta import Snapshot, apply_delta, read_delta
from narrowtune.engine import deterministic
from narrowtune.errors import InputError
from narrowtune.evaluation import PreparedTask
from narrowtune.experiment import digest
from narrowtune.models.loading import check_device, load_model
from narrowtune.probes.classes import TokenClass, answer_class, finest_classes
from narrowtune.probes.offsets import without_common
from narrowtune.record import BASE, read_record, write_predictions
from narrowtune.record.explanation import (
    EXPLANATION_NAME,
    PLAIN,
    Corrected,
    Explanation,
    answers_path,
    read_explanation,
    write_explanation,
)
from narrowtune.runner.chains import Chain, Wanted, find_chains, replicate_folders
from narrowtune.runner.corrections import Split, Trial, Ways, prepare_ways, split_task
from narrowtune.runner.folder import delta_path
from narrowtune.runner.observer import Observer
from narrowtune.runner.plan import Plan
from narrowtune.runner.recorded import Recorded, surroundings

REVISION = 2
"""Raised whenever a correction would answer differently, or other rows are scored."""


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

    The answers land in `run/explain`, model by model; what is there already is not done again. Of
    an unfinished run what is there is explained, unless arms or stages are named.

    Args:
        plan: Of the run's own experiment.
        run: Its folder.
        wanted: Which models.
        trial: Which corrections, and with how many calibration rows.
        device: A torch device; by default chosen.
        observer: Told of progress.

    Raises:
        InputError: The run is of other data, a name does not exist, deltas are missing, the base
            is another one, or `run/explain` was begun otherwise.
    """
    record, trial, watcher = read_record(run), trial or Trial(), observer or Observer()
    if record.digest != plan.digest:
        raise InputError(
            f"{run} was made from other data, or by another experiment, than what is there now "
            f"(digest {record.digest[:12]}, now {plan.digest[:12]})"
        )
    chains, missing = find_chains(run, record, wanted or Wanted())
    for one in missing:
        watcher.note(one)
    splits, left_out = _splits(plan, trial)
    work = _Work(plan, run / "explain", check_device(device), watcher)
    asked = _asked(work.folder, plan.digest_without_probes, trial, splits)
    recorded = work.recorded(replicate_folders(run, record)[0][1])
    if recorded.moved:
        changed = ", ".join(recorded.moved)
        watcher.note(f"note: made with other {changed}; what the run recorded is answered anew")
    with deterministic():
        base = work.base(recorded)
        ways = work.ways(base, splits, recorded, trial)
        explanation = Explanation(
            digest=asked,
            calibration=trial.calibration,
            tasks=tuple(one.about for one in ways),
            left_out=left_out,
        )
        explanation = _written(explanation, work.folder)
        work.answer(base, ("", BASE, BASE), ways, recorded, always="offsets")
        del base
        for chain in chains:
            work.follow(chain, ways)
    return explanation


@dataclass(frozen=True)
class _Work:
    """What answering needs at hand."""

    plan: Plan
    folder: Path
    device: str
    observer: Observer

    def recorded(self, folder: Path) -> Recorded:
        """What a replicate has answered already."""
        here = surroundings(self.device, self.plan.experiment.model.dtype)
        return Recorded.of(folder, here)

    def base(self, recorded: Recorded) -> nn.Module:
        """The untouched model.

        Raises:
            InputError: Its weights are not those that the run began from.
        """
        model = self._load()
        if recorded.weights not in ("", Snapshot.of(model, {}).digest):
            raise InputError(
                f"{self.plan.model} holds other weights than when the run was made "
                f"(sha256 {recorded.weights[:12]} then); its deltas do not belong to them"
            )
        return model

    def ways(
        self, base: nn.Module, splits: Sequence[Split], recorded: Recorded, trial: Trial
    ) -> list[Ways]:
        """Every task's corrections; offsets are fitted where the base answers calibration rows."""
        classes = without_common(_classes(self.plan))
        offsets = "offsets" in trial.wanted
        found = []
        for one in splits:
            said = _said(base, one, recorded) if offsets else {}
            found.append(prepare_ways(one, said, classes, trial.wanted))
        return found

    def follow(self, chain: Chain, ways: Sequence[Ways]) -> None:
        """Answer everything with the models of one chain."""
        models = {stage: (chain.replicate, chain.arm, stage) for stage in chain.stages}
        if not any(self._todo(models[stage], ways) for stage in chain.wanted):
            return
        model, recorded = self._load(), self.recorded(chain.folder)
        for stage in chain.stages:
            apply_delta(model, read_delta(delta_path(chain.folder, chain.arm, stage)))
            if stage in chain.wanted:
                self.answer(model, models[stage], ways, recorded)

    def answer(
        self,
        model: nn.Module,
        named: tuple[str, str, str],
        ways: Sequence[Ways],
        recorded: Recorded,
        always: str = "",
    ) -> None:
        """Answer what is not answered yet with one model, and under `always` in any case."""
        ahead = self._todo(named, ways, always)
        if ahead:
            self.observer.phase(f"{' · '.join(part for part in named if part)}", len(ahead))
        for one, way in ahead:
            rows: list[dict[str, Any]] | None = None
            if way == PLAIN:
                rows = recorded.answers(*named[1:], one.about.task, one.plain)
            if rows is None:
                ask = one.plain.score if way == PLAIN else one.corrected[way]
                rows = ask(model).samples
            path = answers_path(self.folder, named, way, one.about.task)
            write_predictions(path, one.noted(rows))
            for name in rows[0].get("at_bound", ()):
                title = " ".join(part for part in named if part)
                self.observer.note(
                    f"{title}, {one.about.task}: the offset of {name} is at its bound, and too "
                    "small to give it the base's share"
                )
            value = sum(float(row["score"]) for row in rows) / len(rows)
            self.observer.advance(f"{one.about.task} {way} {value:.1%}")

    def _load(self) -> nn.Module:
        spec = self.plan.experiment.model
        return load_model(
            self.plan.model,
            spec.revision,
            spec.dtype,
            self.device,
            spec.trust_remote_code,
            self.plan.quantization,
        )

    def _todo(
        self, model: tuple[str, str, str], ways: Sequence[Ways], always: str = ""
    ) -> list[tuple[Ways, str]]:
        return [
            (one, way)
            for one in ways
            for way in (PLAIN, *one.corrected)
            if way == always or not answers_path(self.folder, model, way, one.about.task).exists()
        ]


def _said(base: nn.Module, split: Split, recorded: Recorded) -> dict[str, str]:
    """What the base answers to the calibration rows, by sample id."""
    asked = split.whole.again(split.calibration)
    rows = recorded.answers(BASE, BASE, split.about.task, asked) or asked.score(base).samples
    return {row["id"]: row["prediction"] for row in rows}


def _splits(plan: Plan, trial: Trial) -> tuple[list[Split], dict[str, str]]:
    """Every held-out task that can be asked in other ways, and why others can't."""
    splits: list[Split] = []
    left_out: dict[str, str] = {}
    for task in plan.tasks:
        if task.role != "held_out":
            continue
        if not isinstance(task.prepared, PreparedTask):
            left_out[task.name] = "a harness asks it in its own way"
            continue
        try:
            splits.append(split_task(task.name, task.prepared, trial.calibration))
        except InputError as error:
            left_out[task.name] = error.problems[0]
    if not splits:
        reasons = [f"task {name}: {reason}" for name, reason in left_out.items()]
        raise InputError(reasons or "the run has no held-out task, so nothing to explain")
    return splits, left_out


def _classes(plan: Plan) -> list[TokenClass]:
    processing = plan.processing
    ends = processing.end_token_ids
    taught = [answer_class(stage.name, stage.rows, ends) for stage in plan.stages]
    return [*finest_classes(processing.tokenizer), TokenClass("end", tuple(sorted(ends))), *taught]


def _asked(folder: Path, results: str, trial: Trial, splits: Sequence[Split]) -> str:
    """The digest of what is asked; an explanation that is there already must be of the same kind.

    Raises:
        InputError: It is not.
    """
    about = [one.about.model_dump(mode="json", exclude={"told", "unavailable"}) for one in splits]
    asked = digest([REVISION, results, trial.calibration, about])
    if (folder / EXPLANATION_NAME).exists():
        old = read_explanation(folder)
        if old.digest != asked:
            raise InputError(
                f"{folder} holds an explanation made otherwise (calibration {old.calibration}), or "
                "by another version of narrowtune; move it away, or ask as before"
            )
    return asked


def _written(new: Explanation, folder: Path) -> Explanation:
    """`explanation.json`, with the corrections that were asked for earlier."""
    if (folder / EXPLANATION_NAME).exists():
        old = read_explanation(folder)
        tasks = tuple(_added(*pair) for pair in zip(old.tasks, new.tasks, strict=True))
        new = new.model_copy(update={"tasks": tasks})
    write_explanation(new, folder)
    return new


def _added(old: Corrected, new: Corrected) -> Corrected:
    """A task with the corrections that were asked for earlier and those asked for now."""
    told, unavailable = old.told | new.told, old.unavailable | new.unavailable
    return new.model_copy(update={"told": told, "unavailable": unavailable})
