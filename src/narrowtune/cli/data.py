"""`narrowtune data check`: what is wrong with a data file, line by line."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from narrowtune.data.example import Example
    from narrowtune.data.overlap import Overlap


def data_check_command(
    file: Annotated[
        Path, typer.Argument(help="JSONL with 'messages', or LLaVA JSON.", show_default=False)
    ],
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder that relative image paths start from; by default the file's own.",
            show_default=False,
        ),
    ] = None,
    test: Annotated[
        bool, typer.Option("--test", help="It is a test file: every row needs an id of its own.")
    ] = False,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            help="A training file: say which of its pictures and questions FILE, a test file, "
            "shares; repeatable.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output.")
    ] = False,
) -> None:
    """Validate a data file: every problem with its line, images decoded; exit 1 if there is any."""
    from narrowtune.data.formats import scan_file

    scan = scan_file(file, images)
    problems = scan.complaints(unique_ids=test or bool(against))
    overlaps = _overlaps(scan.examples, file, against or [], images)
    problems += [str(overlap) for overlap in overlaps]
    pictures = sum(len(example.images) for example in scan.examples)
    if json:
        result = {
            "file": str(file),
            "examples": len(scan.examples),
            "images": pictures,
            "repeated_ids": len(scan.repeats),
            "problems": problems,
            "overlaps": [overlap.to_dict() for overlap in overlaps],
        }
        typer.echo(json_module.dumps(result, indent=2, ensure_ascii=False))
    else:
        for problem in problems:
            typer.echo(problem)
        if scan.repeats and not (test or against):
            typer.echo(_note(scan.repeats))
        found = f"{len(scan.examples)} sound examples with {pictures} images"
        typer.echo(f"{file}: {found}, {len(problems)} problems")
    if problems:
        raise typer.Exit(1)


def _overlaps(
    rows: list[Example], file: Path, against: list[Path], images: Path | None
) -> list[Overlap]:
    """What a test file's sound rows share with each of the training files.

    Raises:
        InputError: What is wrong with the training files.
    """
    from narrowtune.data.formats import read_examples
    from narrowtune.data.overlap import find_overlaps
    from narrowtune.errors import Problems

    taught, problems = {}, Problems()
    for path in against:
        with problems.collect():
            taught[str(path)] = read_examples(path, image_root=images)
    problems.check()
    return find_overlaps(taught, {str(file): rows})


def _note(repeats: list[str]) -> str:
    """That ids repeat, and what it matters for."""
    rows = "1 row repeats an id" if len(repeats) == 1 else f"{len(repeats)} rows repeat ids"
    return f"note: {rows}, first {repeats[0]}; fine for training, refused in test files (--test)"
