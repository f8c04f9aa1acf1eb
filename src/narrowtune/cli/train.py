"""`train`: one skill, one arm, without an experiment file."""

from __future__ import annotations

import re
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
    names: list[str] = []
    stage: dict[str, Any] = {"name": _name(data, names), "train": str(data)}
    if test is not None:
        stage["test"], stage["metric"] = _split_metric(test)
    tasks = []
    for given in held_out:
        path, metric = _split_metric(given)
        tasks.append({"name": _name(Path(path), names), "test": path, "metric": metric})
    return {
        "model": {"id": model},
        "stages": [stage],
        "held_out": tasks,
        "arms": [{"name": _plain(recipe), "train": [recipe]}],
    }


def _split_metric(given: str) -> tuple[str, str]:
    """`FILE:METRIC` in two; the metric `exact` where none, or no known one, follows the colon."""
    from narrowtune.experiment import MetricName

    path, colon, metric = given.rpartition(":")
    return (path, metric) if colon and metric in get_args(MetricName) else (given, "exact")


def _name(file: Path, taken: list[str]) -> str:
    """A task's name from its file: `a/train.jsonl` is `a`, `b.jsonl` is `b`; numbered if taken."""
    usual = file.stem in {"train", "test", "dev", "validation", "data"}
    name = _plain(file.parent.name if usual and file.parent.name else file.stem)
    unique, number = name, 1
    while unique in {*taken, "base"}:
        number += 1
        unique = f"{name}-{number}"
    taken.append(unique)
    return unique


def _plain(text: str) -> str:
    """The text with everything but letters, digits and _ . + - made a hyphen."""
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", text).strip("-.+_")
