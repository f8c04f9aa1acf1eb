"""`eval`: scores of a model as it stands, nothing trained."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from narrowtune.cli.inspect import Trust
from narrowtune.cli.tasks import GivenTask, given_tasks

if TYPE_CHECKING:
    from torch import nn

    from narrowtune.evaluation import How, Task, TaskResult
    from narrowtune.models.processing import Processing


class Dtype(StrEnum):
    """What weights are computed in, as `load_model` takes it."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Quantize(StrEnum):
    """Which matrices are kept in few bits, as `load` takes it."""

    AUTO = "auto"
    NONE = "none"
    NF4 = "nf4"


QuantizationOption = Annotated[
    Quantize,
    typer.Option(
        "--quantization",
        help="auto: as the base was when the delta was trained. nf4: every matrix that can be.",
    ),
]
Model = Annotated[str, typer.Argument(help="Bundled name, folder or hub id.", show_default=False)]
Tasks = Annotated[
    list[str],
    typer.Option(
        "--task",
        help="A test file, as FILE or FILE:METRIC, or a public harness's task, as lm-eval:TASK, "
        "lmms-eval:TASK or HARNESS:TASK:METRIC; repeatable.",
        show_default=False,
    ),
]
MetricOption = Annotated[
    str,
    typer.Option(
        "--metric",
        help="For tasks without :METRIC. exact, option, number, clock, yes_no, vqa, anls, relaxed, "
        "f1, bleu",
    ),
]
ScoringOption = Annotated[
    str,
    typer.Option(
        "--scoring",
        help="generate: the greedy answer. likelihood: the choice likeliest per character. "
        "likelihood-sum: the likeliest choice.",
    ),
]

DeltaOption = Annotated[
    list[Path] | None,
    typer.Option("--delta", help="A delta to put on the model; repeatable, stages in their order."),
]
IncludeOption = Annotated[
    Path | None, typer.Option(help="Folder with harness task files of your own.")
]
AlphaOption = Annotated[float, typer.Option("--alpha", help="Share of the (last) delta.")]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--feature-cache",
        help="Folder that keeps what the image encoder gave, for the next time these tasks are "
        "scored in batches of this size. Changes no result.",
    ),
]
CacheSizeOption = Annotated[
    float, typer.Option(min=0, help="The most GiB of it in memory, and in the folder.")
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", help="New folder for scores.json and per-sample predictions."),
]


def eval_command(
    model: Model,
    task: Tasks,
    metric: MetricOption = "exact",
    scoring: ScoringOption = "generate",
    limit: Annotated[int | None, typer.Option(min=1, help="Read only so many rows.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder that image paths start from.")] = None,
    include_path: IncludeOption = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples answered at once.")] = 64,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 32,
    revision: Annotated[str | None, typer.Option(help="Commit of a hub model.")] = None,
    dtype: Annotated[
        Dtype, typer.Option(help="auto: float32 on the CPU, bfloat16 elsewhere.")
    ] = Dtype.AUTO,
    quantization: QuantizationOption = Quantize.AUTO,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; by default chosen.")] = None,
    delta: DeltaOption = None,
    alpha: AlphaOption = 1.0,
    feature_cache: CacheOption = None,
    feature_cache_gib: CacheSizeOption = 1.0,
    out: OutOption = None,
    trust_remote_code: Trust = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Score a model on test files; nothing is trained.

    Every task is read and checked before the weights are loaded.
    """
    _refuse_occupied(out)
    asked = given_tasks(task, metric)
    from narrowtune.delta import load
    from narrowtune.models.loading import check_device
    from narrowtune.models.processing import load_processing

    where = check_device(device)
    how = {"scoring": scoring, "batch_size": batch_size, "max_new_tokens": max_new_tokens}
    reading = {"limit": limit, "image_root": images}
    processing = load_processing(model, revision, trust_remote_code)
    prepared = _prepare(processing, asked, cast("How", how), reading, include_path)
    rows: list[dict[str, Any]] = []
    weights = load(
        model,
        delta=delta or None,
        alpha=alpha,
        revision=revision,
        dtype=dtype.value,
        device=where,
        trust_remote_code=trust_remote_code,
        quantization=quantization.value,
    )
    about = {"model": model} | _about_delta(delta, alpha) | about_quantization(weights)
    with _keeping(feature_cache, feature_cache_gib, prepared, weights):
        for given, ready, result in _score(weights, asked, prepared):
            rows.append(_row(given, ready.metric_name, result))
            if out is not None:
                _write(out, given.name, about | {"scores": rows}, result)
    if json:
        typer.echo(json_module.dumps(about | {"scores": rows}, indent=1))
    else:
        _print_table(rows)


def _about_delta(delta: list[Path] | None, alpha: float) -> dict[str, Any]:
    return {"delta": [str(path) for path in delta], "alpha": alpha} if delta else {}


def about_quantization(weights: nn.Module) -> dict[str, Any]:
    """What of the base is quantised, said and for JSON; nothing of a plain one."""
    from narrowtune.models.quantized_linear import quantization_of

    found = quantization_of(weights)
    if found is None:
        return {}
    typer.echo(f"note: the base is quantised, {found}", err=True)
    return {"quantization": found.to_row()}


def _prepare(
    processing: Processing,
    tasks: list[GivenTask],
    how: How,
    reading: dict[str, Any],
    include_path: Path | None,
) -> list[Task]:
    """Every task read, checked and encoded, or built by its harness.

    Raises:
        InputError: Everything that is wrong with any of them.
    """
    from functools import partial

    from narrowtune.data import read_checked
    from narrowtune.errors import Problems
    from narrowtune.evaluation import prepare
    from narrowtune.evaluation.harness import Asked, open_task

    prepared: list[Task] = []
    problems = Problems()
    for task in tasks:
        judged: How = {**how, "metric": task.metric}
        with problems.collect():
            if task.harness:
                asked = Asked(
                    harness=task.harness,
                    task=task.task,
                    metric=task.metric or None,
                    limit=reading["limit"],
                    include_path=include_path,
                    batch_size=how["batch_size"],
                )
                prepared.append(open_task(asked, processing))
                continue
            ready = partial(prepare, processing, how=judged)
            prepared.append(read_checked(task.file, ready, unique_ids=True, **reading))
    problems.check()
    return prepared


@contextmanager
def _keeping(folder: Path | None, gib: float, tasks: list[Task], model: Any) -> Iterator[None]:
    """Image features kept in a folder, if one is given."""
    if folder is None:
        yield
        return
    from narrowtune.runner.features import KeptFeatures

    kept = KeptFeatures.at(str(folder), gib, lambda told: typer.echo(told, err=True))
    with kept.scoring(tasks, model, next(model.parameters()).device):
        yield


def _score(
    model: Any, tasks: list[GivenTask], prepared: list[Task]
) -> Iterator[tuple[GivenTask, Task, TaskResult]]:
    for number, (given, task) in enumerate(zip(tasks, prepared, strict=True), start=1):
        place = f"{number} of {len(tasks)}, {task.size} samples"
        typer.echo(f"{given.name} ({place})", err=True)
        yield given, task, task.score(model)


def _row(task: GivenTask, metric: str, result: TaskResult) -> dict[str, Any]:
    return {
        "task": task.name,
        "file": task.file,
        "metric": metric,
        "value": result.value,
        "n": result.n,
        "stderr": result.stderr,
        "higher_is_better": result.higher_is_better,
        "task_version": result.task_version,
    }


def _write(out: Path, name: str, so_far: dict[str, Any], result: TaskResult) -> None:
    """Scores so far and this task's predictions, so that a stopped `eval` leaves what it had."""
    from narrowtune.record import write_predictions, write_text_atomically

    write_predictions(out / "predictions" / f"{name}.jsonl", result.samples)
    write_text_atomically(out / "scores.json", json_module.dumps(so_far, indent=1) + "\n")


def _refuse_occupied(out: Path | None) -> None:
    from narrowtune.errors import InputError

    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not an empty folder; name a new one, nothing is overwritten")


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    table.add_column("task", overflow="fold")
    for column in ("score", "± standard error", "n"):
        table.add_column(column, justify="right")
    table.add_column("judged by", overflow="fold")
    for row in rows:
        table.add_row(
            row["task"],
            f"{100 * row['value']:.1f} %",
            f"{100 * row['stderr']:.1f}",
            str(row["n"]),
            row["task_version"],
        )
    Console().print(table)
