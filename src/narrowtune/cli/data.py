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
    json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output.")
    ] = False,
) -> None:
    """Validate a data file: every problem with its line, images decoded; exit 1 if there is any."""
    from narrowtune.data.formats import scan_file

    scan = scan_file(file, images)
    pictures = sum(len(example.images) for example in scan.examples)
    if json:
        result = {
            "file": str(file),
            "examples": len(scan.examples),
            "images": pictures,
            "problems": scan.problems,
        }
        typer.echo(json_module.dumps(result, indent=2, ensure_ascii=False))
    else:
        for problem in scan.problems:
            typer.echo(problem)
        found = f"{len(scan.examples)} sound examples with {pictures} images"
        typer.echo(f"{file}: {found}, {len(scan.problems)} problems")
    if scan.problems:
        raise typer.Exit(1)
