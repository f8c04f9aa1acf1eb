"""`explain`: what of a run's loss comes back when outputs are corrected without training."""

from __future__ import annotations

import json as json_module
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from narrowtune.cli.run import Device, Json


class Correction(StrEnum):
    """What can be tried."""

    OFFSETS = "offsets"
    ANSWER_SPACE = "answer-space"
    INSTRUCTION = "instruction"
    EXAMPLES = "examples"


RunFolder = Annotated[Path, typer.Argument(help="A run's folder.", show_default=False)]
Arms = Annotated[list[str] | None, typer.Option("--arm", help="Repeatable; all by default.")]
Stages = Annotated[
    list[str] | None, typer.Option("--stage", help="Repeatable; after all by default.")
]
Replicates = Annotated[
    list[str] | None, typer.Option("--replicate", help="As order-1/seed-0; all by default.")
]
Corrections = Annotated[
    list[Correction] | None, typer.Option("--correction", help="Repeatable; all by default.")
]
Calibration = Annotated[
    int, typer.Option(min=1, help="Rows of each task set apart to estimate and to show.")
]
Root = Annotated[
    Path | None,
    typer.Option(
        help="The folder that the experiment's paths start from; by default the current one, or "
        "the nearest above the run that holds its data."
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples answered at once.")]


def explain_command(
    run: RunFolder,
    arm: Arms = None,
    stage: Stages = None,
    replicate: Replicates = None,
    correction: Corrections = None,
    calibration: Calibration = 32,
    root: Root = None,
    batch_size: BatchSize = 64,
    device: Device = None,
    json: Json = False,
) -> None:
    """Correct the outputs of a run's models without training, and see what of the loss is left.

    Held-out tasks are answered again by the base and by the run's models, from their deltas: with
    class offsets on the logits, with nothing but the task's answers to choose from, with an
    instruction, behind two worked examples. What is done already, in RUN/explain, is kept.
    """
    from narrowtune.cli.progress import TerminalProgress
    from narrowtune.record import read_record
    from narrowtune.record.explanation import CORRECTIONS
    from narrowtune.runner import plan
    from narrowtune.runner.chains import Wanted
    from narrowtune.runner.corrections import Trial
    from narrowtune.runner.explain import explain

    record = read_record(run)
    names = [one.value for one in correction or ()]
    trial = Trial([one for one in CORRECTIONS if not names or one in names], calibration)
    resolved = plan(record.experiment, root or _root(run), evaluation_batch_size=batch_size)
    wanted = Wanted(arm or (), stage or (), replicate or ())
    with TerminalProgress() as progress:
        explain(resolved, run, wanted, trial, device=device, observer=progress)
    show_explanation(run, json)


def show_explanation(run: Path, json: bool) -> None:
    """What a run's explanation holds so far, as JSON or as tables."""
    from rich.console import Console

    from narrowtune.record import read_record
    from narrowtune.record.explanation import read_explanation
    from narrowtune.report.explaining import Answers, detections, findings, print_explanation

    explanation = read_explanation(run / "explain")
    answers = Answers(run / "explain", read_record(run), explanation)
    found, told = findings(answers), detections(answers)
    if not json:
        print_explanation(explanation, found, told, Console())
        return
    rows = {"findings": [one.to_dict() for one in found], "yes_no": [one.to_dict() for one in told]}
    typer.echo(json_module.dumps(explanation.model_dump(mode="json") | rows, indent=1))


def _root(run: Path) -> Path:
    """Where the run's data lies: the current folder, or the nearest above the run that has it."""
    from narrowtune.record import read_record

    files = [one.path for one in read_record(run).data if ":" not in one.path]
    above = [Path(), *run.resolve().parents]
    return next((one for one in above if all((one / file).exists() for file in files)), Path())
