"""`train`: one skill, one arm, without an experiment file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from narrowtune.cli.run import BatchSize, Device, Json, Out, Overrides, Resume, SaveModels, execute

Held = Annotated[
    list[str] | None,
    typer.Option("--held-out", help="A test file to watch, as FILE or FILE:METRIC; repeatable."),
]


def train_command(
    model: Annotated[str, typer.Argument(help="Bundled name, folder or hub id.")],
    data: Annotated[
        Path, typer.Argument(help="Training file: JSONL with messages, or LLaVA JSON.")
    ],
    out: Out,
    recipe: Annotated[str, typer.Option(help="Recipe or term; see `select`.")] = "gate-up",
    test: Annotated[
        str | None, typer.Option(help="Test file of the skill, as FILE or FILE:METRIC.")
    ] = None,
    held_out: Held = None,
    images: Annotated[str | None, typer.Option(help="Folder that image paths start from.")] = None,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-5,
    override: Overrides = None,
    resume: Resume = False,
    device: Device = None,
    evaluation_batch_size: BatchSize = 64,
    save_models: SaveModels = True,
    json: Json = False,
) -> None:
    """Teach one skill with one recipe, and score it and what is held out, before and after."""
    from narrowtune.experiment import apply_overrides, parse_experiment
    from narrowtune.runner import Options, plan

    raw = shorthand(model, data, recipe, test, held_out or [])
    raw["stages"][0]["images"] = images
    raw["training"] = {"learning_rate": learning_rate}
    apply_overrides(raw, override or ())
    experiment = parse_experiment(raw, "train")
    resolved = plan(experiment, evaluation_batch_size=evaluation_batch_size)
    options = Options(device, save_models=save_models)
    execute(resolved, out, resume, options, json)


def shorthand(
    model: str, data: Path, recipe: str, test: str | None, held_out: list[str]
) -> dict[str, Any]:
    """The experiment, as plain data, that a `train` command line stands for."""
    stage: dict[str, Any] = {"name": data.stem, "train": str(data)}
    if test is not None:
        stage["test"], stage["metric"] = _split_metric(test)
    taken = {data.stem}
    tasks = []
    for given in held_out:
        path, metric = _split_metric(given)
        name = _free_name(path, taken)
        taken.add(name)
        tasks.append({"name": name, "test": path, "metric": metric})
    return {
        "model": {"id": model},
        "stages": [stage],
        "held_out": tasks,
        "arms": [
            {"name": recipe.replace(".", "-").replace("[", "-").strip("]"), "train": [recipe]}
        ],
    }


def _split_metric(given: str) -> tuple[str, str]:
    """`FILE:METRIC` in two; the metric `exact` where none, or no known one, follows the colon."""
    from narrowtune.experiment import MetricName

    path, colon, metric = given.rpartition(":")
    return (path, metric) if colon and metric in get_args(MetricName) else (given, "exact")


def _free_name(path: str, taken: set[str]) -> str:
    """A task name from a file: its stem, or folder and stem when that is taken."""
    file = Path(path)
    if file.stem not in taken and file.stem not in {"test", "train"}:
        return file.stem
    return f"{file.parent.name}-{file.stem}" if file.parent.name else f"{file.stem}-2"
