"""Experiment x anatomy -> plan: everything resolved and checked before anything runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from narrowtune.anatomy import Anatomy, Selection
from narrowtune.data.encoding import Encoded, encode_all
from narrowtune.data.formats import read_examples
from narrowtune.errors import Problems
from narrowtune.evaluation import How, PreparedTask, prepare
from narrowtune.experiment import ArmSpec, Experiment, Scored, StageSpec, TrainingSpec, digest
from narrowtune.models.processing import Processing, load_processing
from narrowtune.models.skeleton import load_config
from narrowtune.record import DataFile
from narrowtune.training import Settings, planned_steps

# AdamW in fp32: gradient and two moments, 4 bytes each.
_OPTIMISER_BYTES = 12


@dataclass(frozen=True)
class TaskPlan:
    """A test set, read and checked, with how it is scored and why it is there."""

    spec: Scored
    role: Literal["target", "held_out"]
    prepared: PreparedTask

    @property
    def name(self) -> str:
        """The task's name, unique in the experiment."""
        return self.spec.name


@dataclass(frozen=True)
class StagePlan:
    """A skill with its training samples encoded; `number` counts from 0."""

    spec: StageSpec
    number: int
    rows: tuple[Encoded, ...]

    @property
    def name(self) -> str:
        """The stage's name, which is its task's name too."""
        return self.spec.name


@dataclass(frozen=True)
class ArmPlan:
    """A way of teaching with the parameters it trains."""

    spec: ArmSpec
    selection: Selection

    @property
    def name(self) -> str:
        """The arm's name, unique in the experiment."""
        return self.spec.name


@dataclass(frozen=True)
class Plan:
    """All that will happen; `digest` tells two runs apart, data contents included.

    `model` is where the experiment's model is found from here: a folder, or the name it gives.
    """

    experiment: Experiment
    model: str
    processing: Processing
    anatomy: Anatomy
    arms: tuple[ArmPlan, ...]
    stages: tuple[StagePlan, ...]
    tasks: tuple[TaskPlan, ...]
    files: tuple[DataFile, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the experiment and the contents of every data file it names."""
        contents = [[file.path, file.sha256] for file in self.files]
        return digest([self.experiment.model_dump(mode="json"), contents])

    def settings(self, arm: ArmPlan, stage: StagePlan) -> Settings:
        """The numbers that `arm` is trained with at `stage`."""
        spec = self._training(arm, stage)
        return Settings(
            steps=planned_steps(len(stage.rows), spec.batch_size, spec.epochs, spec.steps),
            batch_size=spec.batch_size,
            micro_batch_size=spec.micro_batch_size or spec.batch_size,
            learning_rate=spec.learning_rate,
            schedule=spec.schedule,
            warmup=spec.warmup,
            weight_decay=spec.weight_decay,
            max_grad_norm=spec.max_grad_norm,
            seed=self.experiment.seed * 1000 + stage.number,
        )

    def to_dict(self) -> dict[str, Any]:
        """What will be trained and scored, in numbers; lands in the record."""
        return {
            "family": self.anatomy.family,
            "class": self.anatomy.class_name,
            "arms": [self._arm_row(arm) for arm in self.arms],
            "tasks": [
                {"name": task.name, "role": task.role, "samples": len(task.prepared.examples)}
                for task in self.tasks
            ],
        }

    def _training(self, arm: ArmPlan, stage: StagePlan) -> TrainingSpec:
        return self.experiment.training.merged(stage.spec.training, arm.spec.training)

    def _arm_row(self, arm: ArmPlan) -> dict[str, Any]:
        trained = arm.selection.trained_numel
        return {
            "name": arm.name,
            "terms": list(arm.spec.terms),
            "trained_numel": trained,
            "total_numel": arm.selection.total_numel,
            "trained_tensors": len(arm.selection.trained),
            "optimiser_bytes": _OPTIMISER_BYTES * trained,
            "notes": list(arm.selection.notes),
            "stages": [self._stage_row(arm, stage) for stage in self.stages],
        }

    def _stage_row(self, arm: ArmPlan, stage: StagePlan) -> dict[str, Any]:
        settings = self.settings(arm, stage)
        samples = settings.steps * settings.batch_size
        mean_length = sum(len(row) for row in stage.rows) / len(stage.rows)
        return {
            "name": stage.name,
            "samples": len(stage.rows),
            "steps": settings.steps,
            "learning_rate": settings.learning_rate,
            "batch_size": settings.batch_size,
            "tokens": round(samples * mean_length),
        }


def plan(
    experiment: Experiment, root: str | Path = ".", *, evaluation_batch_size: int = 64
) -> Plan:
    """Resolve an experiment: read its data, name its tensors, check all of it.

    Args:
        experiment: What is asked.
        root: The folder that its relative paths start from: that of its YAML file.
        evaluation_batch_size: Samples answered at once; changes speed and memory, not scores.

    Raises:
        InputError: Listing every problem of the model, the arms and the data files.
    """
    spec, base = experiment.model, Path(root)
    model = _found(spec.id, base)
    anatomy = Anatomy.of(load_config(model, spec.revision))
    processing = load_processing(model, spec.revision)
    problems = Problems()
    arms = _arms(experiment, anatomy, problems)
    tasks = _tasks(
        experiment, partial(_prepared, processing, base, evaluation_batch_size), problems
    )
    stages = _stages(experiment, processing, base, problems)
    problems.check()
    return Plan(
        experiment=experiment,
        model=model,
        processing=processing,
        anatomy=anatomy,
        arms=tuple(arms),
        stages=tuple(stages),
        tasks=tuple(tasks),
        files=tuple(_files(experiment, base)),
    )


def _found(model: str, root: Path) -> str:
    """A model folder is sought beside the experiment's file first, as its data is."""
    beside = root / model
    return str(beside) if (beside / "config.json").is_file() else model


def _arms(experiment: Experiment, anatomy: Anatomy, problems: Problems) -> list[ArmPlan]:
    arms = []
    for arm in experiment.arms:
        with problems.collect(f"arm {arm.name}"):
            arms.append(ArmPlan(arm, anatomy.select(arm.terms, keep=arm.keep)))
    return arms


def _stages(
    experiment: Experiment, processing: Processing, root: Path, problems: Problems
) -> list[StagePlan]:
    stages = []
    for number, stage in enumerate(experiment.stages):
        with problems.collect(f"stage {stage.name}"):
            images = root / stage.images if stage.images else None
            examples = read_examples(root / stage.train, image_root=images, limit=stage.train_limit)
            rows = encode_all(examples, processing, experiment.training.max_length)
            stages.append(StagePlan(stage, number, tuple(rows)))
    return stages


def _tasks(
    experiment: Experiment, prepared: Callable[[Scored, str], PreparedTask], problems: Problems
) -> list[TaskPlan]:
    tasks = []
    for stage in experiment.stages:
        if stage.test is not None:
            with problems.collect(f"stage {stage.name}"):
                tasks.append(TaskPlan(stage, "target", prepared(stage, stage.test)))
    for task in experiment.held_out:
        with problems.collect(f"held_out {task.name}"):
            tasks.append(TaskPlan(task, "held_out", prepared(task, task.test)))
    return tasks


def _prepared(
    processing: Processing, root: Path, batch_size: int, spec: Scored, test: str
) -> PreparedTask:
    images = root / spec.images if spec.images else None
    examples = read_examples(root / test, image_root=images, limit=spec.limit)
    how: How = {
        "metric": spec.metric,
        "scoring": spec.scoring,
        "batch_size": batch_size,
        "max_new_tokens": spec.max_new_tokens,
    }
    return prepare(processing, examples, how)


def _files(experiment: Experiment, root: Path) -> list[DataFile]:
    paths = [path for stage in experiment.stages for path in (stage.train, stage.test) if path]
    paths += [task.test for task in experiment.held_out]
    return [_file(path, root / path) for path in dict.fromkeys(paths)]


def _file(name: str, path: Path) -> DataFile:
    content = path.read_bytes()
    rows = sum(1 for line in content.splitlines() if line.strip())
    return DataFile(path=name, rows=rows, sha256=hashlib.sha256(content).hexdigest())
