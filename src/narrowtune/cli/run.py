"""`plan` and `run`: an experiment file, before and while it happens."""

from __future__ import annotations

import json as json_module
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from narrowtune.record import Record
    from narrowtune.runner import Options, Plan

ExperimentFile = Annotated[Path, typer.Argument(help="The experiment's YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("-o", help="Set a key of the experiment: -o training.learning_rate=1e-4"),
]
Out = Annotated[Path, typer.Option("--out", help="Folder for the run; new, or with --resume.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where this run stopped.")]
PlannedDevice = Annotated[
    str | None,
    typer.Option("--device", help="Predict for this GPU, as h100-80g; else for this machine."),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...; chosen when not given.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples answered at once when scoring.")]
SaveModels = Annotated[
    bool, typer.Option("--save-models/--no-save-models", help="Write each arm's final model.")
]
FeatureCache = Annotated[
    str | None,
    typer.Option(
        help="Folder that keeps what a frozen image encoder gave, for later runs too; off keeps "
        "none, not even in memory. Changes no result."
    ),
]
FeatureGib = Annotated[
    float, typer.Option(min=0, help="The most GiB of it in memory, and in the folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def plan_command(
    experiment: ExperimentFile,
    override: Overrides = None,
    device: PlannedDevice = None,
    json: Json = False,
) -> None:
    """Say all that a run would do and take, and check every input; nothing is trained."""
    from narrowtune.cli.costs import costs_to_dict, print_costs
    from narrowtune.engine.devices import named_device
    from narrowtune.experiment import load_experiment
    from narrowtune.models.loading import default_device
    from narrowtune.runner import plan
    from narrowtune.runner.cost import Costs
    from narrowtune.runner.environment import dtype_notes

    if device is not None:
        named_device(device)  # refused before the data is read
    resolved = plan(load_experiment(experiment, override or ()), experiment.parent)
    costs = Costs(resolved, device)
    if json:
        told = resolved.to_dict() | {"cost": costs_to_dict(costs)}
        typer.echo(json_module.dumps(told, indent=1))
    else:
        _print_plan(resolved)
        print_costs(costs)
    # Of this machine, not of the plan: it stays out of the JSON.
    if device is not None:
        return
    for note in dtype_notes(resolved.experiment.model.dtype, default_device()):
        typer.echo(note, err=True)


def run_command(
    experiment: ExperimentFile,
    out: Out,
    override: Overrides = None,
    resume: Resume = False,
    device: Device = None,
    evaluation_batch_size: BatchSize = 64,
    save_models: SaveModels = True,
    feature_cache: FeatureCache = None,
    feature_cache_gib: FeatureGib = 1.0,
    json: Json = False,
) -> None:
    """Carry out an experiment: every arm through every stage, scored, recorded, reported."""
    from narrowtune.experiment import load_experiment
    from narrowtune.runner import Options, plan, refuse_occupied

    refuse_occupied(out, resume)
    resolved = plan(
        load_experiment(experiment, override or ()),
        experiment.parent,
        evaluation_batch_size=evaluation_batch_size,
    )
    options = Options(
        device,
        save_models=save_models,
        feature_cache=feature_cache,
        feature_cache_gib=feature_cache_gib,
    )
    execute(resolved, out, resume, options, json)


def execute(plan: Plan, out: Path, resume: bool, options: Options, json: bool) -> None:
    """Run a plan with progress, then show its report; shared by `run`, `train` and `demo`.

    Exits with 3 when the ledger did not hold.
    """
    from narrowtune.cli.progress import TerminalProgress
    from narrowtune.engine import is_main_process
    from narrowtune.runner import run
    from narrowtune.training import Interrupted

    with TerminalProgress() as progress:
        for note in _notes(plan):
            progress.note(note)
        try:
            record = run(plan, out, resume=resume, options=options, observer=progress)
        except Interrupted as stopped:
            progress.note(f"{stopped}; go on with the same command and --resume")
            raise typer.Exit(130) from None
    if is_main_process():
        show(record, out, json)
    if not all(row.held for row in record.ledger):
        raise typer.Exit(3)


def show(record: Record, out: Path, json: bool) -> None:
    """The finished record: as JSON, or as tables with the path of the HTML report."""
    from rich.console import Console

    from narrowtune.record import read_record
    from narrowtune.report import print_terminal, write_html

    for row in record.replicates:
        write_html(read_record(out / row.name), out / row.name / "report.html")
    path = write_html(record, out / "report.html")
    if json:
        typer.echo(record.model_dump_json(indent=1))
        return
    print_terminal(record, Console(), folder=out)
    typer.echo(f"\nreport: {path}")


def _print_plan(plan: Plan) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Column, Table

    from narrowtune.report.units import count, memory

    arms = plan.to_dict()["arms"]
    named = partial(Column, "arm", overflow="fold")  # a cell's name tells its values
    sizes = Table(named(), "trains", "of all", "tensors", "gradient + optimiser", box=SIMPLE_HEAD)
    stages = Table(named(), "stage", "samples", "steps", "rate", "tokens", box=SIMPLE_HEAD)
    for arm in arms:
        part = arm["trained_numel"] / arm["total_numel"]
        needed = memory(arm["optimiser_bytes"])
        trains = count(arm["trained_numel"])
        sizes.add_row(arm["name"], trains, f"{part:.1%}", str(arm["trained_tensors"]), needed)
        for stage in arm["stages"]:
            numbers = [str(stage[key]) for key in ("samples", "steps", "learning_rate", "tokens")]
            stages.add_row(arm["name"], stage["name"], *numbers)
    tasks = Table("scored", "as", "metric", "samples", box=SIMPLE_HEAD)
    for task in plan.tasks:
        tasks.add_row(task.name, task.role, task.prepared.metric_name, str(task.prepared.size))
    console = Console()
    console.print(f"{plan.anatomy.class_name}, digest {plan.digest[:12]}")
    if plan.experiment.repeated:
        replicates = plan.experiment.replicates
        console.print(f"{len(replicates)} replicates, each as below in its order, from its seed:")
        for one in replicates:
            console.print(f"  {one.name}: {' > '.join(one.order)}", highlight=False)
    for table in (sizes, stages, tasks):
        console.print(table)
    for note in _notes(plan):
        console.print(note, markup=False, highlight=False)


def _notes(plan: Plan) -> list[str]:
    """What a careful user wants to know beforehand: of base and arms, and of tests that leak."""
    base = [f"note: {note}" for note in plan.base_notes]
    arms = [f"note: {arm.name}: {note}" for arm in plan.arms for note in plan.notes(arm)]
    return (
        base + arms + [f"note: task {shared.task}: {shared} (allowed)" for shared in plan.overlaps]
    )
