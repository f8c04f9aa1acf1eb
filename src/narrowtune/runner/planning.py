"""Experiment x anatomy -> plan: everything read, resolved and checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from narrowtune.anatomy import Anatomy
from narrowtune.data.encoding import encode_all
from narrowtune.data.example import Example
from narrowtune.errors import InputError, Problems
from narrowtune.evaluation import How, PreparedTask, misfits, prepare
from narrowtune.evaluation.harness import Asked, HarnessTask, open_task
from narrowtune.experiment import Experiment, HarnessSpec, Scored
from narrowtune.models.activation_checkpointing import layers_problem
from narrowtune.models.compiling import check_compiler
from narrowtune.models.loading import default_device
from narrowtune.models.packed import packing_problem
from narrowtune.models.processing import Processing, load_processing
from narrowtune.models.skeleton import BUNDLED, build_skeleton, load_config
from narrowtune.probes.probing import Probing
from narrowtune.record import DataFile
from narrowtune.runner.drift import plan_probes
from narrowtune.runner.during import Looks
from narrowtune.runner.gauges import Gauges, plan_gauges
from narrowtune.runner.leaks import allowed_overlaps
from narrowtune.runner.method_data import MethodReader, Prepare, Teach
from narrowtune.runner.plan import ArmPlan, Plan, Role, StagePlan, TaskPlan
from narrowtune.runner.quantizing import planned_quantization
from narrowtune.runner.reading import DataReader
from narrowtune.training.optimisers import check_optimiser

Open = Callable[[HarnessSpec], HarnessTask]
_OF_LAYERS = ("activation_checkpointing", "torch_compile")


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
    problems, reader = Problems(), DataReader(Path(root))
    model, anatomy, processing = _model(experiment, reader, Path(root))
    encode = partial(encode_all, processing=processing, max_length=experiment.training.max_length)
    judge = partial(_prepared, processing, evaluation_batch_size)
    run = partial(_opened, processing, evaluation_batch_size, reader)
    stages = tuple(_stages(experiment, encode, reader, problems))
    tasks = tuple(_tasks(experiment, judge, run, reader, problems))
    probing: Probing | None = None
    looks: tuple[Looks, ...] = ()
    with problems.collect("probes"):
        probing, looks = plan_probes(experiment, stages, processing, reader, evaluation_batch_size)
    gauges: Gauges = {}
    with problems.collect("drift"):
        gauges = plan_gauges(experiment, processing, reader, evaluation_batch_size)
    source = (model, experiment.model.revision, experiment.model.trust_remote_code)
    methods = MethodReader(source, processing, reader, encode, judge)
    whole = Plan(
        experiment=experiment,
        model=model,
        processing=processing,
        anatomy=anatomy,
        arms=tuple(_arms(experiment, anatomy, methods, problems)),
        stages=stages,
        tasks=tasks,
        probing=probing,
        looks=looks,
        gauges=gauges,
        files=tuple(reader.files.values()),
        overlaps=allowed_overlaps(experiment, reader, problems),
    )
    with problems.collect("model"):
        packed = planned_quantization(whole, experiment.model.quantization)
        whole = replace(whole, quantization=packed)
    _check_training(whole, source, problems)
    problems.check()
    return whole


def _check_training(plan: Plan, source: tuple[str, str | None, bool], problems: Problems) -> None:
    """Note what the arms can't be trained with at their stages."""
    with problems.collect("share_images"):
        _check_sharing(plan, source)
    for key in _OF_LAYERS:
        with problems.collect(key):
            _check_layers(key, plan, source)
    for optim in sorted(_asked("optim", plan.experiment)):
        with problems.collect():
            check_optimiser(optim)
    for arm in plan.arms:
        for stage in plan.stages:
            with problems.collect(f"arm {arm.name} at stage {stage.name}"):
                plan.settings(arm, stage)
                plan.check_reach(arm, stage)


def _model(
    experiment: Experiment, reader: DataReader, root: Path
) -> tuple[str, Anatomy, Processing]:
    """Where the model is, its anatomy and processing; if it fails, the data is still looked at."""
    spec = experiment.model
    model = _found(spec.id, root)
    try:
        source = (model, spec.revision, spec.trust_remote_code)
        return model, Anatomy.of(load_config(*source)), load_processing(*source)
    except InputError as error:
        raise InputError([*error.problems, *_data_problems(experiment, reader)]) from error


def _check_sharing(plan: Plan, source: tuple[str, str | None, bool]) -> None:
    """Refuse to share images in a model that can't read several samples in one sequence.

    Raises:
        InputError: It can't, by what its config says; the rest is tried when a stage begins.
    """
    if not _asked("share_images", plan.experiment):
        return
    if problem := packing_problem(build_skeleton(load_config(*source))):
        raise InputError(f"{problem}; leave training.share_images out")


def _check_layers(key: str, plan: Plan, source: tuple[str, str | None, bool]) -> None:
    """Refuse what is done layer by layer in a class whose layers are no modules of their own.

    Raises:
        InputError: They are not; or there is nothing to compile with.
    """
    if not _asked(key, plan.experiment):
        return
    if key == "torch_compile":
        check_compiler(default_device())
    if problem := layers_problem(build_skeleton(load_config(*source)), plan.anatomy):
        raise InputError(f"{problem}; leave training.{key} out")


def _asked(key: str, experiment: Experiment) -> set[Any]:
    """What training asks for, of all stages and arms or of some; not what is off or left out."""
    parts = [experiment.training, *(stage.training for stage in experiment.stages)]
    found = {getattr(one, key) for one in [*parts, *(arm.training for arm in experiment.arms)]}
    return found - {None, False}


def _data_problems(experiment: Experiment, reader: DataReader) -> tuple[str, ...]:
    """What is wrong with the data files whatever the model."""
    problems = Problems()
    for stage in experiment.stages:
        with problems.collect(f"stage {stage.name}"):
            reader.read(stage, stage.train, lambda examples: None, limit=stage.train_limit)
    for _, spec, test in _scored(experiment):
        if isinstance(spec, HarnessSpec):
            continue  # its requests are written in the model's own format
        with problems.collect(f"task {spec.name}"):
            reader.read(spec, test, partial(_check_metric, spec), limit=spec.limit, test=True)
    allowed_overlaps(experiment, reader, problems)
    return problems.found


def _check_metric(spec: Scored, examples: list[Example]) -> None:
    if spec.scoring == "generate" and (wrong := misfits(spec.metric, examples)):
        raise InputError(wrong)


def _found(model: str, root: Path) -> str:
    """Bundled names first; then a folder beside the experiment's file, where its data is too."""
    beside = root / model
    return str(beside) if model not in BUNDLED and beside.is_dir() else model


def _arms(
    experiment: Experiment, anatomy: Anatomy, methods: MethodReader, problems: Problems
) -> list[ArmPlan]:
    arms = []
    for arm in experiment.arms:
        with problems.collect(f"arm {arm.name}"):
            selection = anatomy.select(arm.terms, keep=arm.keep)
            arms.append(ArmPlan(arm, selection, methods.read(arm, selection)))
    return arms


def _stages(
    experiment: Experiment, encode: Teach, reader: DataReader, problems: Problems
) -> list[StagePlan]:
    stages = []
    for number, stage in enumerate(experiment.stages):
        with problems.collect(f"stage {stage.name}"):
            rows = reader.read(stage, stage.train, encode, limit=stage.train_limit)
            stages.append(StagePlan(stage, number, tuple(rows)))
    return stages


def _tasks(
    experiment: Experiment, judge: Prepare, run: Open, reader: DataReader, problems: Problems
) -> list[TaskPlan]:
    tasks = []
    for role, spec, test in _scored(experiment):
        with problems.collect(f"task {spec.name}"):
            if isinstance(spec, HarnessSpec):
                tasks.append(TaskPlan(spec, role, run(spec)))
                continue
            check = partial(judge, spec)
            prepared = reader.read(spec, test, check, limit=spec.limit, test=True)
            tasks.append(TaskPlan(spec, role, prepared))
    return tasks


def _scored(experiment: Experiment) -> Iterator[tuple[Role, Scored | HarnessSpec, str]]:
    """Everything that is scored, with where it comes from: the stages' own tasks first."""
    for stage in experiment.stages:
        if stage.test is not None:
            yield "target", stage, stage.test
    for task in experiment.held_out:
        yield "held_out", task, task.source


def _prepared(
    processing: Processing, batch_size: int, spec: Scored, examples: list[Example]
) -> PreparedTask:
    how: How = {
        "metric": spec.metric,
        "scoring": spec.scoring,
        "batch_size": batch_size,
        "max_new_tokens": spec.max_new_tokens,
    }
    return prepare(processing, examples, how)


def _opened(
    processing: Processing, batch_size: int, reader: DataReader, spec: HarnessSpec
) -> HarnessTask:
    """A harness's task; what it will ask the model is noted and compared as a data file is."""
    folder = reader.root / spec.include_path if spec.include_path else None
    asked = Asked(
        harness=spec.harness,
        task=spec.task,
        metric=spec.metric,
        limit=spec.limit,
        num_fewshot=spec.num_fewshot,
        chat_template=spec.chat_template,
        max_new_tokens=spec.max_new_tokens,
        include_path=folder,
        batch_size=batch_size,
    )
    task = open_task(asked, processing)
    reader.files[spec.source] = DataFile(
        path=spec.source, rows=task.size, images=0, sha256=task.sha256
    )
    reader.tested[spec.name] = list(task.asks)
    return task
