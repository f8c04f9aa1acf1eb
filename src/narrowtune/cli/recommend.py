"""`recommend`: which way of teaching to use, within a budget of time, memory and loss."""

from __future__ import annotations

import json as json_module
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from narrowtune.cli.inspect import Trust
from narrowtune.cli.run import BatchSize, Device, Json, Out, Overrides, Resume
from narrowtune.cli.train import Held, shorthand

if TYPE_CHECKING:
    from narrowtune.experiment import Experiment

What = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL|EXPERIMENT.yaml",
        help="A model, with DATA behind it; or an experiment, whose arms are the candidates.",
    ),
]
Data = Annotated[
    Path | None, typer.Argument(help="Training file: JSONL with messages, or LLaVA JSON.")
]
Memory = Annotated[
    str | None,
    typer.Option(help="The most that teaching may take, as 24GB or 512MB; without, no limit."),
]


def recommend_command(
    what: What,
    out: Out,
    minutes: Annotated[float, typer.Option(min=0.01, help="Wall time to spend, all in all.")],
    data: Data = None,
    allowed_loss: Annotated[
        float, typer.Option(min=0, max=100, help="Points that held-out scores may lose, in mean.")
    ] = 2.0,
    memory: Memory = None,
    test: Annotated[
        str | None, typer.Option(help="Test file of the skill, as FILE or FILE:METRIC.")
    ] = None,
    held_out: Held = None,
    images: Annotated[
        str | None, typer.Option(help="Folder that relative image paths start from.")
    ] = None,
    override: Overrides = None,
    resume: Resume = False,
    device: Device = None,
    trust_remote_code: Trust = False,
    evaluation_batch_size: BatchSize = 64,
    json: Json = False,
) -> None:
    """Search for the recipe, method and learning rate to use, and say what is not known.

    Candidates are taught for a few steps, the better ones for longer. Without arms of your own:
    gate-up, attention, the whole language model, LoRA and halfway interpolation, over two decades
    of learning rate.
    """
    began = time.monotonic()
    from narrowtune.runner import Options, plan
    from narrowtune.runner.pinning import with_base_pinned
    from narrowtune.search import Budget, recommend, refuse_taken
    from narrowtune.training import Interrupted

    refuse_taken(out, resume)
    budget = Budget(minutes * 60, allowed_loss / 100, _bytes(memory), began)
    raw, root = _asked(what, data, (test, held_out or [], images))
    experiment = _experiment(raw, override or [], str(what))
    if trust_remote_code:
        trusted = experiment.model.model_copy(update={"trust_remote_code": True})
        experiment = experiment.model_copy(update={"model": trusted})
    resolved = plan(experiment, root, evaluation_batch_size=evaluation_batch_size)
    from narrowtune.cli.progress import TerminalProgress

    with TerminalProgress() as progress:
        try:
            recommend(
                resolved,
                out,
                budget,
                resume=resume,
                options=Options(device),
                observer=progress,
            )
        except Interrupted as stopped:
            progress.note(f"{stopped}; go on with the same command and --resume")
            raise typer.Exit(130) from None
    _show(with_base_pinned(resolved), root, out, json)


def _asked(
    what: Path, data: Path | None, tasks: tuple[str | None, list[str], str | None]
) -> tuple[dict[str, Any], Path]:
    """The experiment as plain data, and the folder its paths start from.

    Raises:
        InputError: Neither a model with data, nor an experiment alone.
    """
    from narrowtune.errors import InputError
    from narrowtune.experiment.loading import read_experiment

    test, held_out, images = tasks
    is_file = what.suffix in (".yaml", ".yml")
    if data is not None and not is_file:
        raw = shorthand(str(what), data, [], test, held_out, images)
        return raw | {"arms": []}, Path()
    if data is None and is_file:
        if test or held_out or images:
            raise InputError("an experiment names its own tests: leave out --test, --held-out")
        return read_experiment(what), what.parent
    raise InputError(
        f"{what} is an experiment and brings its own data: leave {data} out"
        if is_file
        else f"give the training file behind the model {what}, or an EXPERIMENT.yaml in its place"
    )


def _experiment(raw: dict[str, Any], overrides: list[str], source: str) -> Experiment:
    """The experiment, with the usual candidates where it names no arms."""
    from narrowtune.experiment import apply_overrides, parse_experiment
    from narrowtune.search import default_arms

    apply_overrides(raw, overrides)
    if not raw.get("arms"):
        stages = raw.get("stages")
        raw["arms"] = default_arms(len(stages) if isinstance(stages, list) else 1)
    return parse_experiment(raw, source)


def _show(experiment: Experiment, root: Path, out: Path, json: bool) -> None:
    """The recommendation on the screen, and as an experiment to run.

    Exits with 3 where nothing is recommended.
    """
    from rich.console import Console

    from narrowtune.report.recommended import (
        print_recommendation,
        read_recommendation,
        recommendation_to_dict,
    )
    from narrowtune.search import RECOMMENDED, write_recommended

    found = read_recommendation(out)
    usable = found.choice is not None and found.choice.usable
    told = recommendation_to_dict(found)
    (out / "recommendation.json").write_text(json_module.dumps(told, indent=1), encoding="utf-8")
    path = None
    (out / RECOMMENDED).unlink(missing_ok=True)  # of an earlier session
    if found.choice is not None and usable:
        arms = {arm.name: arm for arm in experiment.arms}
        path = write_recommended(experiment, arms[found.choice.best.arm], root, out)
    if json:
        typer.echo(json_module.dumps(told, indent=1))
    else:
        print_recommendation(found, Console())
        if path is not None:
            typer.echo(f"\nnarrowtune run {path} --out RUN teaches it, all steps.")
    if not usable:
        raise typer.Exit(3)


def _bytes(text: str | None) -> int | None:
    """Bytes that a size stands for: 24GB, 1.5 GiB, 512MB; a thousand and 1,024 told apart.

    Raises:
        InputError: It stands for none.
    """
    from narrowtune.errors import InputError

    if text is None:
        return None
    found = re.fullmatch(r"\s*([0-9.]+)\s*([KMGT])(i?)B?\s*", text, flags=re.IGNORECASE)
    try:
        number = float(found[1]) if found else 0.0
    except ValueError:
        number = 0.0
    if found is None or number <= 0:
        raise InputError(f"--memory {text!r} is no size; write it as 24GB, 16GiB or 512MB")
    power = "KMGT".index(found[2].upper()) + 1
    return int(number * (1024 if found[3] else 1000) ** power)
