"""`narrowtune data prepare`: public data sets, and the drawn world, as files of ours."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from narrowtune.data.prepare import Manifest

NAMES = "cub200, pixmo-count, pathvqa, textvqa, timeclock; or pico, the drawn world"


def data_prepare_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help=NAMES + ".", show_default=False)],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Folder for train.jsonl, test.jsonl, images and manifest.json: new or empty, or "
            "one where the same was broken off.",
            show_default=False,
        ),
    ],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Folder with the release as it is published; fetched otherwise.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Of distractors, of the sample that --limit takes, of pico.")
    ] = 0,
    limit: Annotated[
        int | None,
        typer.Option(help="Rows of each split, a seeded sample.", min=1, show_default=False),
    ] = None,
    train: Annotated[
        int | None,
        typer.Option(help="pico: training rows of a skill [2560].", min=1, show_default=False),
    ] = None,
    test: Annotated[
        int | None,
        typer.Option(help="pico: test rows of a task [120].", min=1, show_default=False),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the manifest on standard output.")
    ] = False,
) -> None:
    """Make training and test files of a public data set; broken off, it goes on where it was."""
    from narrowtune.data.prepare import DATASETS, TEST, TRAIN, build, draw
    from narrowtune.errors import InputError, nearest

    if name != "pico" and name not in DATASETS:
        raise InputError(f"no data set is called {name!r}: {nearest(name, [*DATASETS, 'pico'])}")
    drawn = {"--train": train, "--test": test}
    _refuse(name, {"--from": source, "--limit": limit} if name == "pico" else drawn)
    with _Steps() as progress:
        if name == "pico":
            made = draw(out, progress, train=train or TRAIN, test=test or TEST, seed=seed)
        else:
            made = build(DATASETS[name], out, source, progress, seed=seed, limit=limit)
    if json:
        typer.echo(json_module.dumps(asdict(made), indent=2, ensure_ascii=False))
    else:
        _tell(made, out)


def _refuse(name: str, given: Mapping[str, object]) -> None:
    """Options that mean nothing for this data set."""
    from narrowtune.errors import InputError

    wrong = [option for option, value in given.items() if value is not None]
    if wrong:
        raise InputError(f"{' and '.join(wrong)} cannot be given for {name}; see --help")


def _tell(made: Manifest, out: Path) -> None:
    for note in made.notes:
        typer.echo(f"note: {note}", err=True)
    rows = ", ".join(f"{count} {split}" for split, count in sorted(made.rows.items()))
    metric = f"; metric {made.metric}" if made.metric else ""
    typer.echo(f"{made.title} in {out}: {rows}{metric}")
    typer.echo(f"licence: {made.licence}")


class _Steps:
    """Progress on stderr: a bar in a terminal, elsewhere a line for every tenth of a step."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
        self._plain = not console.is_terminal
        self._bar = Progress(*columns, console=console, transient=True, disable=self._plain)
        self._task = self._bar.add_task("", total=None)
        self._told = ("", -1)

    def __enter__(self) -> _Steps:
        self._bar.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._bar.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        self._bar.update(self._task, description=what, completed=done, total=total or None)
        tenth = (what, 10 * done // max(1, total))
        if self._plain and tenth != self._told:
            self._told = tenth
            typer.echo(f"{what} {done}/{total}" if total else what, err=True)
