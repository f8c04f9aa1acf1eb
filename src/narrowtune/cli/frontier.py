"""`narrowtune frontier`: what each family of arms keeps at the same learning."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from narrowtune.cli.run import Json

Folders = Annotated[
    list[Path],
    typer.Argument(metavar="DIR", help="Run folders; several of the same tasks are read together."),
]
At = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SHARE...",
        help="Shares of the best learning at which families are compared, above 0 and up to 1.  "
        "[default: 0.8 0.9 0.95]",
        show_default=False,
    ),
]
Html = Annotated[
    Path | None, typer.Option(help="Also write figure and tables into this HTML file.")
]


def frontier_command(
    folders: Folders, at: At = None, html: Html = None, json: Json = False
) -> None:
    """Compare families of arms at matched learning: what their sweeps keep, learn and cost.

    A sweep's cells are one family, an arm without a sweep another. Runs that are read together,
    made at different rates say, must have the same base, tasks and task versions.
    """
    from rich.console import Console

    from narrowtune.analysis.frontier import frontier
    from narrowtune.analysis.frontier_export import frontier_to_dict
    from narrowtune.errors import InputError
    from narrowtune.report.frontier import read_together, shown
    from narrowtune.report.frontier_terminal import print_frontier
    from narrowtune.report.html import write_frontier_html

    runs_in, levels = _told_apart(folders, at)
    record, runs = read_together(runs_in)
    found = frontier(runs, levels)
    if found is None:
        raise InputError(
            "there is no frontier: it takes a stage with a test, a held-out task, scores of the "
            "base, and an arm that was scored to the end"
        )
    if html is not None:
        try:
            write_frontier_html(record, shown(found), html)
        except OSError as error:
            raise InputError(f"cannot write {html}: {error.strerror}") from error
    if json:
        typer.echo(json_module.dumps(frontier_to_dict(found), indent=1, ensure_ascii=False))
        return
    print_frontier(found, Console())
    if html is not None:
        typer.echo(f"\nreport: {html}")


def _told_apart(given: Sequence[Path], at: Sequence[str] | None) -> tuple[list[Path], list[float]]:
    """Folders and levels: shares may follow `--at` one after the other, and look like folders.

    Raises:
        InputError: Something that should be a share is none, or no folder is left.
    """
    from narrowtune.analysis.frontier import LEVELS
    from narrowtune.errors import InputError

    if at is None:
        return list(given), list(LEVELS)
    more = [path for path in given if _is_number(str(path)) and not path.exists()]
    texts = [part for text in at for part in text.replace(",", " ").split()] + [*map(str, more)]
    wrong = [text for text in texts if not (_is_number(text) and 0 < float(text) <= 1)]
    if wrong or not texts:
        told = ", ".join(wrong) or "nothing"
        raise InputError(f"--at takes shares above 0 and up to 1, as 0.8 0.9; not {told}")
    folders = [path for path in given if path not in more]
    if not folders:
        raise InputError("no run folder is given; name them before --at")
    return folders, sorted({float(text) for text in texts})


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
