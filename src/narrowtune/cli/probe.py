"""`probe`: where a model's output distribution stands, and how far a delta has moved it."""

from __future__ import annotations

import json as json_module
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from narrowtune.cli.evaluate import (
    AlphaOption,
    DeltaOption,
    Dtype,
    Model,
    QuantizationOption,
    Quantize,
    about_quantization,
)
from narrowtune.cli.inspect import Trust
from narrowtune.cli.tasks import task_name

if TYPE_CHECKING:
    from rich.console import Console

    from narrowtune.data.example import Example
    from narrowtune.probes.probing import Asked
    from narrowtune.probes.readings import Reading


class Probe(StrEnum):
    """What can be read."""

    KL = "kl"
    ANSWER_BIAS = "answer_bias"
    LAYERS = "layers"
    NUMBER_BIAS = "number_bias"


ProbeOption = Annotated[
    list[Probe] | None, typer.Option("--probe", help="Repeatable; all by default.")
]
Texts = Annotated[
    list[Path],
    typer.Option(
        "--task", help="A test file whose right answers are read; repeatable.", show_default=False
    ),
]
CaptionsOption = Annotated[
    Path | None,
    typer.Option("--captions", help="Prompts for number_bias; by default the tasks' images."),
]
COLUMNS = {
    "KL first": ("kl", "first", ""),
    "KL all": ("kl", "all", ""),
    "top-1": ("top1", "first", ""),
    "numbers": ("mass", "first", "number"),
    "letters": ("mass", "first", "letter"),
    "yes/no": ("mass", "first", "yes_no"),
}
FOREWORD = (
    "KL in nats per token from the base, at the answers' first token and at all of them. At the "
    "first token, in %: how often both models' likeliest token is the same (top-1), and how much "
    "probability numbers, letters, yes and no have."
)


def probe_command(
    model: Model,
    task: Texts,
    probe: ProbeOption = None,
    delta: DeltaOption = None,
    alpha: AlphaOption = 1.0,
    captions: CaptionsOption = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows of each file.")] = 32,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest caption.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts read at once.")] = 16,
    images: Annotated[Path | None, typer.Option(help="Folder that image paths start from.")] = None,
    revision: Annotated[str | None, typer.Option(help="Commit of a hub model.")] = None,
    dtype: Annotated[
        Dtype, typer.Option(help="auto: float32 on the CPU, or what the delta was trained in.")
    ] = Dtype.AUTO,
    quantization: QuantizationOption = Quantize.AUTO,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; by default chosen.")] = None,
    trust_remote_code: Trust = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Read a model's output distribution; with a delta, how far it has moved from the base.

    Files and deltas are read and checked before the weights are loaded.
    """
    from narrowtune.delta import apply_deltas, read_delta
    from narrowtune.delta.delta import check_alpha
    from narrowtune.delta.load import quantization_asked
    from narrowtune.errors import InputError, Problems
    from narrowtune.models.loading import check_device, load_model
    from narrowtune.models.processing import load_processing
    from narrowtune.probes.probing import prepare_probing

    where, paths = check_device(device), delta or []
    wanted = frozenset(one.value for one in probe or Probe)
    problems = Problems()
    with problems.collect():
        check_alpha(alpha)
        if not paths and alpha != 1.0:
            raise InputError(f"alpha {alpha:g} is a share of a delta, and no delta is given")
    with problems.collect():
        deltas = [read_delta(path) for path in paths]
    with problems.collect():
        asked = _asked(wanted, (task, captions, images), limit, (max_new_tokens, batch_size))
    problems.check()
    processing = load_processing(model, revision, trust_remote_code)
    probing = prepare_probing(asked, processing)
    trained_in = deltas[0].header.base.dtype if deltas and dtype is Dtype.AUTO else dtype.value
    packed = quantization_asked(model, quantization.value, deltas, revision, trust_remote_code)
    weights = load_model(model, revision, trained_in, where, trust_remote_code, packed)
    about = {"model": model} | about_quantization(weights)
    probing.remember(weights)
    found = {"base": probing.read(weights)}
    if deltas:
        apply_deltas(weights, deltas, alpha)
        found["delta"] = probing.read(weights)
    if json:
        rows = {name: [one.to_dict() for one in readings] for name, readings in found.items()}
        typer.echo(json_module.dumps(about | rows, indent=1))
    else:
        _print(found)


def _asked(
    probes: frozenset[str],
    files: tuple[list[Path], Path | None, Path | None],
    limit: int,
    how: tuple[int, int],
) -> Asked:
    """What the command line asks for, its files read.

    Raises:
        InputError: Everything that is wrong with any of them.
    """
    from narrowtune.data import read_checked
    from narrowtune.errors import Problems
    from narrowtune.probes.probing import Asked, caption_prompts

    tasks, captions, images = files
    problems = Problems()
    texts: dict[str, list[Example]] = {}
    prompts: list[Example] = []
    for file in tasks:
        with problems.collect():
            name = task_name(file, list(texts))
            texts[name] = read_checked(file, list, image_root=images, limit=limit)
    if captions is not None:
        with problems.collect():
            prompts = read_checked(captions, list, image_root=images, limit=limit)
    problems.check()
    own = prompts or caption_prompts([row for rows in texts.values() for row in rows], limit)
    return Asked(probes, texts, own, max_new_tokens=how[0], batch_size=how[1])


def _print(found: dict[str, list[Reading]]) -> None:
    from rich.console import Console

    from narrowtune.cli.layer_table import print_layers

    console = Console()
    _print_expected(console, found)
    print_layers(console, found.get("delta", []))
    for who, readings in found.items():
        for one in readings:
            if one.probe == "number_bias":
                value = one.reason if one.value is None else f"{100 * one.value:.2f} %"
                console.print(f"number bias of {who} (the paper's, on own captions): {value}")


def _print_expected(console: Console, found: dict[str, list[Reading]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    table.add_column("task", overflow="fold")
    for name in ("", *COLUMNS):
        table.add_column(name, justify="right")
    tasks = dict.fromkeys(one.task for one in found["base"] if one.probe == "kl")
    for task in tasks:
        for who, readings in found.items():
            shown = [_shown(readings, task, *key) for key in COLUMNS.values()]
            table.add_row(task if who == "base" else "", who, *shown)
    if tasks:
        console.print(table)
        console.print(FOREWORD, style="dim")


def _shown(readings: list[Reading], task: str, probe: str, at: str, part: str) -> str:
    key = (probe, task, at, part)
    for one in readings:
        if (one.probe, one.task, one.at, one.part) == key and one.value is not None:
            return f"{one.value:.3f}" if one.unit == "nats" else f"{100 * one.value:.1f}"
    return "-"
