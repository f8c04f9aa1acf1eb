"""`narrowtune report`: a run's record as tables and as one HTML file."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer


def report_command(
    folder: Annotated[
        Path,
        typer.Argument(help="The folder that run, train or demo wrote.", show_default=False),
    ],
    open_browser: Annotated[
        bool, typer.Option("--open", help="Show the HTML report in the browser.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the analysis as JSON on standard output.")
    ] = False,
) -> None:
    """Show what a run taught and what it kept, and write report.html into its folder."""
    from rich.console import Console

    from narrowtune.analysis import to_dict
    from narrowtune.errors import InputError
    from narrowtune.record import read_record
    from narrowtune.report import print_terminal, read_samples, write_html

    record = read_record(folder)
    home = folder if folder.is_dir() else folder.parent
    samples = read_samples(home, record)
    try:
        path = write_html(record, home / "report.html", samples)
    except OSError as error:
        raise InputError(f"cannot write the report into {home}: {error.strerror}") from error
    if json:
        found = to_dict(record, samples) | {"report": str(path)}
        typer.echo(json_module.dumps(found, indent=2, ensure_ascii=False))
    else:
        print_terminal(record, Console(), samples=samples)
        typer.echo(f"\nreport: {path}")
    if open_browser:
        typer.launch(path.resolve().as_uri())
