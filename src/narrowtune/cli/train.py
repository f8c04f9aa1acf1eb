"""`train`: one skill, one arm, without an experiment file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from narrowtune.cli.inspect import Trust
from narrowtune.cli.run import (
    BatchSize,
    Device,
    FeatureCache,
    FeatureGib,
    Json,
    Out,
    Overrides,
    Resume,
    SaveModels,
    execute,
)
from narrowtune.cli.tasks import GivenTask, given_tasks, plain, split_metric, task_name

Held = Annotated[
    list[str] | None,
    typer.Option("--held-out", help="A test file to watch, as FILE or FILE:METRIC; repeatable."),
]


Recipes = Annotated[
    list[str] | None,
    typer.Option(
        help="Recipe or term, see `select`; repeatable, all are trained.  [default: gate-up]"
    ),
]


def train_command(
    model: Annotated[str, typer.Argument(help="Bundled name, folder or hub id.")],
    data: Annotated[
        Path, typer.Argument(help="Training file: JSONL with messages, or LLaVA JSON.")
    ],
    out: Out,
    recipe: Recipes = None,
    test: Annotated[
        str | None, typer.Option(help="Test file of the skill, as FILE or FILE:METRIC.")
    ] = None,
    held_out: Held = None,
    images: Annotated[
        str | None,
        typer.Option(
            help="Folder that relative image paths of all these files start from; by default each "
            "file's own."
        ),
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-5,
    override: Overrides = None,
    resume: Resume = False,
    device: Device = None,
    trust_remote_code: Trust = False,
    evaluation_batch_size: BatchSize = 64,
    save_models: SaveModels = True,
    feature_cache: FeatureCache = None,
    feature_cache_gib: FeatureGib = 1.0,
    json: Json = False,
) -> None:
    """Teach one skill with one recipe, and score it and what is held out, before and after."""
    from narrowtune.experiment import apply_overrides, parse_experiment
    from narrowtune.runner import Options, plan, refuse_occupied

    refuse_occupied(out, resume)
    raw = shorthand(model, data, recipe or ["gate-up"], test, held_out or [], images)
    if test is None and not held_out:
        typer.echo("note: without --test and --held-out nothing will be scored", err=True)
    raw["training"] = {"learning_rate": learning_rate}
    raw["model"]["trust_remote_code"] = trust_remote_code
    apply_overrides(raw, override or ())
    experiment = parse_experiment(raw, "train")
    resolved = plan(experiment, evaluation_batch_size=evaluation_batch_size)
    options = Options(
        device,
        save_models=save_models,
        feature_cache=feature_cache,
        feature_cache_gib=feature_cache_gib,
    )
    execute(resolved, out, resume, options, json)


def shorthand(
    model: str,
    data: Path,
    recipes: list[str],
    test: str | None,
    held_out: list[str],
    images: str | None = None,
) -> dict[str, Any]:
    """The experiment, as plain data, that a `train` command line stands for.

    Raises:
        InputError: Every unknown metric.
    """
    from narrowtune.errors import Problems

    problems = Problems()
    name = task_name(data)
    stage: dict[str, Any] = {"name": name, "train": str(data), "images": images}
    tasks: list[dict[str, Any]] = []
    if test is not None:
        with problems.collect():
            stage["test"], stage["metric"] = split_metric(test)
    with problems.collect():
        tasks = [_held_out(task, images) for task in given_tasks(held_out, taken=[name])]
    problems.check()
    return {
        "model": {"id": model},
        "stages": [stage],
        "held_out": tasks,
        "arms": [{"name": plain("+".join(recipes)) or "arm", "train": recipes}],
    }


def _held_out(task: GivenTask, images: str | None) -> dict[str, Any]:
    """A held-out task as an experiment writes it."""
    if task.harness:
        asked = {"name": task.name, "harness": task.harness, "task": task.task}
        return asked | ({"metric": task.metric} if task.metric else {})
    return {"name": task.name, "test": task.file, "metric": task.metric, "images": images}
