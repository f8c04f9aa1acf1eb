"""The plan as a value: what will be trained and scored, resolved before anything runs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from narrowtune.anatomy import Anatomy, Selection
from narrowtune.data.encoding import Encoded
from narrowtune.data.overlap import Overlap
from narrowtune.data.sharing import groups
from narrowtune.errors import InputError
from narrowtune.evaluation import Task
from narrowtune.experiment import (
    ArmSpec,
    DriftSpec,
    Experiment,
    HarnessSpec,
    Replicate,
    Scored,
    StageSpec,
    TrainingSpec,
    digest,
)
from narrowtune.models.compiling import COMPILED_NOTE
from narrowtune.models.processing import Processing
from narrowtune.models.quantization import quantization_notes
from narrowtune.probes.probing import Probing
from narrowtune.record import DataFile, Quantization
from narrowtune.runner.during import LIGHT, Looks
from narrowtune.runner.gauges import Gauges, budget_of, gauge_row
from narrowtune.runner.method_data import MethodData, check_drift, method_notes
from narrowtune.training import Settings, batch_order, planned_steps
from narrowtune.training.optimisers import optimiser_notes, state_bytes

Role = Literal["target", "held_out"]
_READ_IMAGES = ("vision", "connector")

# Of a gradient, besides what the optimiser keeps; in bfloat16 a master copy as well.
_FP32 = 4


@dataclass(frozen=True)
class TaskPlan:
    """A test set, read and checked, with how it is scored and why it is there."""

    spec: Scored | HarnessSpec
    role: Role
    prepared: Task

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
    """A way of teaching with the parameters it selects, and what its methods read."""

    spec: ArmSpec
    selection: Selection
    reads: MethodData = field(default_factory=MethodData)

    @property
    def name(self) -> str:
        """The arm's name, unique in the experiment."""
        return self.spec.name

    @property
    def towers(self) -> tuple[str, ...]:
        """The towers of which it trains anything."""
        return tuple(dict.fromkeys(tensor.tower for tensor in self.selection.tensors))

    @property
    def needs(self) -> tuple[str, ...]:
        """What must be plain in the base: parameters that are trained, MLPs that are copied."""
        experts = self.reads.experts
        return (*self.selection.trained, *(experts.blocks if experts else ()))

    @property
    def trained_numel(self) -> int:
        """How many numbers the optimiser moves: those selected, or those of their adapters."""
        return self.reads.adapters or self.selection.trained_numel + self.reads.routers


@dataclass(frozen=True)
class Plan:
    """All that will happen; `digest` tells two runs apart, data contents included.

    `model` is where the experiment's model is found from here: a folder, or the name it gives.
    `overlaps` is what tests share with training, by permission of the experiment; `probing` its
    probes, None where it asks for none; `looks` those that are read during training; `gauges`
    measure what the arms' drift budgets are about; `quantization` is what of the base is packed.
    """

    experiment: Experiment
    model: str
    processing: Processing
    anatomy: Anatomy
    arms: tuple[ArmPlan, ...]
    stages: tuple[StagePlan, ...]
    tasks: tuple[TaskPlan, ...]
    files: tuple[DataFile, ...]
    overlaps: tuple[Overlap, ...] = ()
    probing: Probing | None = None
    looks: tuple[Looks, ...] = ()
    gauges: Gauges = field(default_factory=dict)
    quantization: Quantization | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the experiment and the contents of every data file it names.

        Defaults are left out, so that a key added by a later version changes no digest.
        """
        contents = [[file.path, file.sha256] for file in self.files]
        return digest([self.experiment.model_dump(mode="json", exclude_defaults=True), contents])

    @property
    def digest_without_probes(self) -> str:
        """The digest of the same plan without probes: of all that can change a result."""
        experiment = self.experiment.model_copy(update={"probes": ()})
        read = {*file_names(experiment)}
        files = tuple(file for file in self.files if file.path in read)
        return replace(self, experiment=experiment, files=files).digest

    def alone(self, replicate: Replicate) -> Plan:
        """The plan of one replicate: nothing is read again, and its digest is as if it were."""
        stages = {stage.name: stage for stage in self.stages}
        taught = [stages[name] for name in replicate.order]
        targets = {task.name: task for task in self.tasks if task.role == "target"}
        held_out = [task for task in self.tasks if task.role == "held_out"]
        tested = [targets[name] for name in replicate.order if name in targets]
        files = {file.path: file for file in self.files}
        experiment = self.experiment.alone(replicate)
        return replace(
            self,
            experiment=experiment,
            stages=tuple(replace(stage, number=i) for i, stage in enumerate(taught)),
            tasks=(*tested, *held_out),
            files=tuple(files[path] for path in file_names(experiment)),
        )

    def settings(self, arm: ArmPlan, stage: StagePlan) -> Settings:
        """The numbers that `arm` is trained with at `stage`.

        Raises:
            InputError: If stage, arm and experiment together ask for what can't be.
        """
        spec, replay = self._training(arm, stage), arm.spec.method.replay
        replayed = len(self.replays(arm, stage))
        return Settings(
            steps=planned_steps(len(stage.rows), spec.batch_size, spec.epochs, spec.steps),
            batch_size=spec.batch_size,
            micro_batch_size=spec.micro_batch_size or spec.batch_size,
            learning_rate=spec.learning_rate,
            schedule=spec.schedule,
            warmup=spec.warmup,
            weight_decay=spec.weight_decay,
            optim=spec.optim,
            max_grad_norm=spec.max_grad_norm,
            seed=self.experiment.seed * 1000 + stage.number,
            replay=replay.ratio if replay and replayed else 0.0,
            replayed=replayed,
            share_images=spec.share_images,
            padding_free=spec.padding_free,
            activation_checkpointing=spec.activation_checkpointing,
            offload_optimizer=spec.offload_optimizer,
            torch_compile=spec.torch_compile,
        )

    def order(self, arm: ArmPlan, stage: StagePlan, settings: Settings) -> list[list[int]]:
        """Which of its rows each step of `arm` at `stage` sees."""
        rows, token = self.rows(arm, stage), self.processing.image_token_id
        together = groups(stage.rows, token) if settings.share_images else ()
        return batch_order([len(row) for row in rows], settings, together)

    def rows(self, arm: ArmPlan, stage: StagePlan) -> tuple[Encoded, ...]:
        """The samples that `arm` is taught at `stage`: its own, then those that are replayed."""
        return (*stage.rows, *self.replays(arm, stage))

    def replays(self, arm: ArmPlan, stage: StagePlan) -> tuple[Encoded, ...]:
        """The samples that `arm` replays at `stage`."""
        replay = arm.spec.method.replay
        if replay is None:
            return ()
        return arm.reads.general if replay.data else self.earlier(stage)

    def earlier(self, stage: StagePlan) -> tuple[Encoded, ...]:
        """All samples of the stages before."""
        return tuple(row for one in self.stages if one.number < stage.number for row in one.rows)

    def drift(self, arm: ArmPlan) -> DriftSpec | None:
        """The arm's drift budget, None where it has none."""
        return budget_of(self.experiment, arm.spec)

    def unreached(self, arm: ArmPlan, stage: StagePlan) -> list[str]:
        """Trained towers that no sample of the stage sends anything through."""
        if any(row.example.images for row in stage.rows):
            return []
        return [tower for tower in arm.towers if tower in _READ_IMAGES]

    def check_reach(self, arm: ArmPlan, stage: StagePlan) -> None:
        """Refuse a stage in which nothing that the arm trains can learn.

        Raises:
            InputError: If it trains only what reads images, and the stage has none, or its methods
                contradict its drift budget.
        """
        check_drift(arm.spec.method, self.drift(arm))
        idle = self.unreached(arm, stage)
        if idle and len(idle) == len(arm.towers):
            raise InputError(
                f"it trains only {' and '.join(idle)}, and no sample of {stage.spec.train} has an "
                "image, so no gradient reaches it; give samples with images, or train language too"
            )

    @property
    def base_notes(self) -> list[str]:
        """What a careful user wants to know about the base of all arms."""
        return quantization_notes(self.quantization)

    def notes(self, arm: ArmPlan) -> list[str]:
        """What a careful user wants to know about an arm before it is trained."""
        first = self.stages[0].name
        notes = [*arm.selection.notes, *self._drift_notes(arm), *self._look_notes(arm)]
        notes += method_notes(arm.spec, arm.selection, arm.reads, first)
        trainings = [self._training(arm, stage) for stage in self.stages]
        offloaded = any(one.offload_optimizer for one in trainings)
        notes += optimiser_notes([one.optim for one in trainings], offloaded)
        notes += [COMPILED_NOTE] if any(one.torch_compile for one in trainings) else []
        for stage in self.stages:
            if idle := self.unreached(arm, stage):
                notes.append(
                    f"stage {stage.name}: no sample has an image, so {' and '.join(idle)} stay as "
                    "they are"
                )
        return notes

    def to_dict(self) -> dict[str, Any]:
        """What will be trained and scored, in numbers; lands in the record."""
        repeats = [
            {"name": one.name, "order": list(one.order), "seed": one.seed}
            for one in self.experiment.replicates
        ]
        return {
            **({"replicates": repeats} if self.experiment.repeated else {}),
            "family": self.anatomy.family,
            "class": self.anatomy.class_name,
            **({"quantization": self.quantization.to_row()} if self.quantization else {}),
            "arms": [self._arm_row(arm) for arm in self.arms],
            "tasks": [
                {"name": task.name, "role": task.role, "samples": task.prepared.size}
                for task in self.tasks
            ],
            "overlaps": [overlap.to_dict() for overlap in self.overlaps],
            **({"probes": self._probes_row()} if self.probing is not None else {}),
            **({"drift": [gauge_row(*one) for one in self.gauges.items()]} if self.gauges else {}),
        }

    def _drift_notes(self, arm: ArmPlan) -> list[str]:
        spec = self.drift(arm)
        if spec is None:
            return []
        gauge = self.gauges[spec.measure, spec.limit]
        steering, unseen = (
            sum(len(one.encoded) for one in part) for part in (gauge.steering, gauge.unseen)
        )
        told = [
            f"drift budget {spec.budget:g} nats ({spec.measure}, {spec.action}): {steering} texts "
            f"of {len(gauge.steering)} held-out tasks steer, {unseen} others check"
        ]
        if spec.action == "penalise":
            told.append(
                f"the penalty learns on half of those {steering} texts, which are scored too: "
                "judge this arm by the others"
            )
        return told

    def _look_notes(self, arm: ArmPlan) -> list[str]:
        """A word where looks during training will take a visible share of it."""
        batch = min(self._training(arm, stage).batch_size for stage in self.stages)
        shares = [looks.share(batch) for looks in self.looks]
        return [
            f"the probes read every {looks.every} steps will take about {share:.0%} of its "
            "training: raise every, or lower rows_during"
            for looks, share in zip(self.looks, shares, strict=True)
            if share > LIGHT
        ]

    def _probes_row(self) -> dict[str, Any]:
        assert self.probing is not None
        during = [looks.to_dict() for looks in self.looks]
        return self.probing.to_dict() | ({"during": during} if during else {})

    def _training(self, arm: ArmPlan, stage: StagePlan) -> TrainingSpec:
        return self.experiment.training.merged(stage.spec.training, arm.spec.training)

    def _arm_row(self, arm: ArmPlan) -> dict[str, Any]:
        trained, methods = arm.trained_numel, list(arm.spec.method.names)
        return {
            "name": arm.name,
            "terms": list(arm.spec.terms),
            **({"methods": methods} if methods else {}),
            "trained_numel": trained,
            "total_numel": arm.selection.total_numel,
            "trained_tensors": len(arm.selection.trained),
            "optimiser_bytes": round(self._optimiser_bytes(arm) * trained),
            "notes": self.notes(arm),
            "stages": [self._stage_row(arm, stage) for stage in self.stages],
        }

    def _optimiser_bytes(self, arm: ArmPlan) -> float:
        """Of each trained number."""
        halved = self.experiment.model.dtype == "bfloat16"
        kept = max(state_bytes(self._training(arm, stage).optim) for stage in self.stages)
        return kept + _FP32 * (2 if halved else 1)

    def _stage_row(self, arm: ArmPlan, stage: StagePlan) -> dict[str, Any]:
        settings = self.settings(arm, stage)
        rows = self.rows(arm, stage)
        order = self.order(arm, stage, settings)
        return {
            "name": stage.name,
            "samples": len(stage.rows),
            "steps": settings.steps,
            "learning_rate": settings.learning_rate,
            "batch_size": settings.batch_size,
            "tokens": sum(len(rows[index]) for batch in order for index in batch),
        }


def file_names(experiment: Experiment) -> list[str]:
    """The data files of an experiment and its harness tasks, each once, as they are read."""
    stages = experiment.stages
    tests = [stage.test for stage in stages if stage.test is not None]
    held_out = [task.source for task in experiment.held_out]
    captioned = [probe.data for probe in experiment.probes if probe.data is not None]
    methods = [file for arm in experiment.arms for file in arm.method.files]
    taught = [stage.train for stage in stages]
    return list(dict.fromkeys([*taught, *tests, *held_out, *captioned, *methods]))
