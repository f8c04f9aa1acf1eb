"""`narrowtune report`: a run's record as tables and as one HTML file."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from narrowtune.record import Record


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

    from narrowtune.errors import InputError
    from narrowtune.record import read_record
    from narrowtune.report import print_terminal, write_html

    record = read_record(folder)
    home = folder if folder.is_dir() else folder.parent
    try:
        for replicate in record.replicates:
            page = home / replicate.name / "report.html"
            if not page.exists():  # the gathered page links to it
                write_html(read_record(page.parent), page)
        path = write_html(record, home / "report.html")
    except OSError as error:
        raise InputError(f"cannot write the report into {home}: {error.strerror}") from error
    if json:
        typer.echo(json_module.dumps(analysed(record, home, path), indent=2, ensure_ascii=False))
    else:
        print_terminal(record, Console(), folder=home)
        typer.echo(f"\nreport: {path}")
    if open_browser:
        typer.launch(path.resolve().as_uri())


def analysed(record: Record, home: Path, path: Path) -> dict[str, Any]:
    """What `report --json` prints: of one run, or of all replicates together and one by one."""
    from narrowtune.analysis import Run, pooled_to_dict, to_dict
    from narrowtune.analysis.frontier_export import frontier_to_dict
    from narrowtune.report import read_runs, read_samples
    from narrowtune.report.frontier import swept_frontier

    if record.replicates:
        runs = read_runs(home, record)
        found = pooled_to_dict(record, runs)
    else:
        runs = [Run(record, read_samples(home, record))]
        found = to_dict(record, runs[0].samples)
    curves = swept_frontier(runs)
    shown = None if curves is None else frontier_to_dict(curves)
    return found | {"frontier": shown, "report": str(path)}
