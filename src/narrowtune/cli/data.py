"""`narrowtune data check`: what is wrong with a data file, line by line."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer


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
    json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output.")
    ] = False,
) -> None:
    """Validate a data file: every problem with its line, images decoded; exit 1 if there is any."""
    from narrowtune.data.formats import scan_file

    scan = scan_file(file, images)
    problems = scan.complaints(unique_ids=test)
    pictures = sum(len(example.images) for example in scan.examples)
    if json:
        result = {
            "file": str(file),
            "examples": len(scan.examples),
            "images": pictures,
            "repeated_ids": len(scan.repeats),
            "problems": problems,
        }
        typer.echo(json_module.dumps(result, indent=2, ensure_ascii=False))
    else:
        for problem in problems:
            typer.echo(problem)
        if scan.repeats and not test:
            typer.echo(_note(scan.repeats))
        found = f"{len(scan.examples)} sound examples with {pictures} images"
        typer.echo(f"{file}: {found}, {len(problems)} problems")
    if problems:
        raise typer.Exit(1)


def _note(repeats: list[str]) -> str:
    """That ids repeat, and what it matters for."""
    rows = "1 row repeats an id" if len(repeats) == 1 else f"{len(repeats)} rows repeat ids"
    return f"note: {rows}, first {repeats[0]}; fine for training, refused in test files (--test)"
