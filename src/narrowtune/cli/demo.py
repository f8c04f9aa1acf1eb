"""`demo`: the whole story on the bundled model, on any CPU, in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from narrowtune.cli.run import Json, Resume, execute

STAGES = ("counting", "reading")
HELD_OUT = ("relations", "documents", "infographics", "captions", "existence")
ARMS = ("language", "attention", "gate-up")


def demo_command(
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder; the next free narrowtune-demo otherwise.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Training samples per skill.")] = 2560,
    tests: Annotated[int, typer.Option(help="Test samples per task.")] = 150,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Teach a small multimodal model two skills in three ways, and show what each way kept."""
    from narrowtune.experiment import dump_experiment, load_experiment, parse_experiment
    from narrowtune.runner import Options, plan

    folder = out or free_folder(Path("narrowtune-demo"))
    file = folder / "experiment.yaml"
    if not (resume and file.exists()):
        _refuse_existing(folder)
        typer.echo(f"drawing {len(STAGES)} skills and {len(HELD_OUT)} held-out abilities", err=True)
        draw(folder / "data", samples, tests)
        experiment = parse_experiment(demo_experiment())
        file.write_text(dump_experiment(experiment), encoding="utf-8")
    resolved = plan(load_experiment(file), folder)
    execute(resolved, folder / "run", resume, Options(device="cpu", save_models=False), json)


def demo_experiment() -> dict[str, Any]:
    """The demo as plain data: same data, order, steps and learning rate for every arm."""
    from narrowtune.pico import METRICS

    def scored(task: str) -> dict[str, Any]:
        return {"name": task, "test": f"data/{task}/test.jsonl", "metric": METRICS[task]}

    return {
        "model": {"id": "pico-qwen", "dtype": "float32"},
        "stages": [scored(task) | {"train": f"data/{task}/train.jsonl"} for task in STAGES],
        "held_out": [scored(task) for task in HELD_OUT],
        "arms": [{"name": arm, "recipe": arm} for arm in ARMS],
        "training": {"epochs": 1, "batch_size": 32, "learning_rate": 1e-3},
    }


def draw(folder: Path, samples: int, tests: int) -> None:
    """Draw the demo's training and test files."""
    from narrowtune import pico

    for task in STAGES:
        pico.write(folder, task, "train", samples)
    for task in (*STAGES, *HELD_OUT):
        pico.write(folder, task, "test", tests)


def free_folder(wanted: Path) -> Path:
    """`wanted`, or the first of `wanted-2`, `wanted-3`, ... that does not exist."""
    folder, number = wanted, 1
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder


def _refuse_existing(folder: Path) -> None:
    from narrowtune.errors import InputError

    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty: give a new folder with --out, or --resume")
    folder.mkdir(parents=True, exist_ok=True)
