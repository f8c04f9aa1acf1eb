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
    samples: Annotated[int, typer.Option(help="Training samples per skill.")] = 3200,
    tests: Annotated[int, typer.Option(help="Test samples per task.")] = 150,
    learning_rate: Annotated[float, typer.Option(help="Peak rate, the same for all arms.")] = 1e-3,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Teach a small multimodal model two skills in three ways, and show what each way kept."""
    import torch

    from narrowtune.experiment import dump_experiment, load_experiment, parse_experiment
    from narrowtune.record import RECORD_NAME
    from narrowtune.runner import Options, plan

    # Two threads bring a model this small 1.3 times the speed of one on an idle machine, and a
    # tenth of it on a busy one, where they wait for each other.
    torch.set_num_threads(1)
    folder = out or demo_folder(Path("narrowtune-demo"), resume)
    file = folder / "experiment.yaml"
    if not (resume and file.exists()):
        _refuse_another(folder)
        typer.echo(f"drawing {len(STAGES)} skills and {len(HELD_OUT)} held-out abilities", err=True)
        draw(folder / "data", samples, tests)
        experiment = parse_experiment(demo_experiment(learning_rate))
        file.write_text(dump_experiment(experiment), encoding="utf-8")
    resolved = plan(load_experiment(file), folder)
    going_on = resume and (folder / "run" / RECORD_NAME).exists()
    execute(resolved, folder / "run", going_on, Options(device="cpu", save_models=False), json)


def demo_experiment(learning_rate: float = 1e-3) -> dict[str, Any]:
    """The demo as plain data: same data, order, steps and learning rate for every arm."""
    from narrowtune.pico import METRICS

    def scored(task: str) -> dict[str, Any]:
        return {"name": task, "test": f"data/{task}/test.jsonl", "metric": METRICS[task]}

    return {
        "model": {"id": "pico-qwen", "dtype": "float32"},
        "stages": [scored(task) | {"train": f"data/{task}/train.jsonl"} for task in STAGES],
        "held_out": [scored(task) for task in HELD_OUT],
        "arms": [{"name": arm, "recipe": arm} for arm in ARMS],
        "training": {"epochs": 1, "batch_size": 32, "learning_rate": learning_rate},
        "probes": [{"probe": probe, "limit": 16} for probe in ("kl", "answer_bias")],
    }


def draw(folder: Path, samples: int, tests: int) -> None:
    """Draw the demo's training and test files."""
    from narrowtune import pico

    for task in STAGES:
        pico.write(folder, task, "train", samples)
    for task in (*STAGES, *HELD_OUT):
        pico.write(folder, task, "test", tests)


def demo_folder(wanted: Path, resume: bool) -> Path:
    """The first free one of `wanted`, `wanted-2`, ...; to resume, the last that is there."""
    folders = [wanted, *(wanted.with_name(f"{wanted.name}-{number}") for number in range(2, 1000))]
    free = next(number for number, folder in enumerate(folders) if not folder.exists())
    return folders[max(0, free - 1)] if resume else folders[free]


def _refuse_another(folder: Path) -> None:
    """Only an empty folder, or one where drawing the demo's data was broken off, is used."""
    from narrowtune.errors import InputError

    if folder.exists() and any(path.name != "data" for path in folder.iterdir()):
        raise InputError(f"{folder} is not empty: give a new folder with --out, or --resume")
    folder.mkdir(parents=True, exist_ok=True)
