"""`inspect` and `select`: what a model is made of, and what a selection would train."""

from __future__ import annotations

import json as json_module
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from narrowtune.anatomy import Anatomy, SelectedTensor, Selection

Model = Annotated[
    str,
    typer.Argument(
        help="A folder (config.json alone is enough), a hub id, or a bundled name "
        "(pico-qwen, pico-llava).",
        show_default=False,
    ),
]
Terms = Annotated[
    list[str],
    typer.Argument(
        metavar="TERM...",
        help="TOWER, TOWER.PART, TOWER.PART[lo:hi], name:GLOB, or a recipe such as gate-up.",
        show_default=False,
    ),
]
Keep = Annotated[
    list[str] | None,
    typer.Option("--keep", metavar="TERM", help="Leave this out; may be given several times."),
]
Revision = Annotated[
    str | None, typer.Option("--revision", help="Commit or branch of a hub model.")
]
Trust = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run Python code that comes with the model."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def inspect_command(
    model: Model, revision: Revision = None, trust_remote_code: Trust = False, json: Json = False
) -> None:
    """Show a model's towers, parts, sizes and ties, and what each recipe would train.

    Only the config is read; no weights are needed.
    """
    anatomy = _anatomy(model, revision, trust_remote_code)
    if json:
        typer.echo(json_module.dumps(anatomy.to_dict(), indent=1))
        return
    from rich.console import Console

    console = Console()
    console.print(
        f"{anatomy.class_name} ({anatomy.family}), {anatomy.total_numel:,} parameters", style="bold"
    )
    console.print(_parts_table(anatomy))
    _print_ties(console, anatomy)
    console.print(_recipes_table(anatomy))
    _print_unknown(console, anatomy)


def select_command(
    model: Model,
    terms: Terms,
    keep: Keep = None,
    revision: Revision = None,
    trust_remote_code: Trust = False,
    json: Json = False,
) -> None:
    """Show exactly which tensors a selection trains: the terms, less what --keep names.

    Only the config is read; --json lists every tensor by name.
    """
    selection = _anatomy(model, revision, trust_remote_code).select(terms, keep=keep or ())
    if json:
        typer.echo(json_module.dumps(selection.to_dict(), indent=1))
        return
    from rich.console import Console

    console = Console()
    _print_selection(console, selection)
    share = selection.trained_numel / selection.total_numel
    _line(
        console,
        f"trains {selection.trained_numel:,} of {selection.total_numel:,} parameters ({share:.2%}) "
        f"in {len(selection.trained)} tensors; {selection.frozen} tensors stay frozen",
    )
    for note in selection.notes:
        _line(console, f"note: {note}")


def _anatomy(model: str, revision: str | None, trust_remote_code: bool) -> Anatomy:
    from narrowtune.anatomy import Anatomy
    from narrowtune.models.skeleton import load_config

    return Anatomy.of(load_config(model, revision, trust_remote_code))


def _table(*columns: str) -> Table:
    """An empty table: words to the left, numbers to the right."""
    from rich.table import Table

    table = Table()
    for column in columns:
        numeric = column in ("tensors", "parameters", "share", "layers")
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    return table


def _parts_table(anatomy: Anatomy) -> Table:
    table = _table("tower", "part", "layers", "tensors", "parameters", "share")
    for tower, facts in anatomy.to_dict()["towers"].items():
        layers = str(facts["layers"] or "")
        table.add_row(tower, "", layers, *_counts(facts, anatomy), style="bold")
        for part, row in facts["parts"].items():
            table.add_row("", part, "", *_counts(row, anatomy))
            for piece, numel in row.get("slices", {}).items():
                table.add_row("", f"  {piece}", "", "", *_size(numel, anatomy), style="dim")
        table.add_section()
    return table


def _counts(row: dict[str, int], anatomy: Anatomy) -> tuple[str, str, str]:
    return str(row["tensors"]), *_size(row["numel"], anatomy)


def _size(numel: int, anatomy: Anatomy) -> tuple[str, str]:
    return f"{numel:,}", f"{numel / anatomy.total_numel:.2%}"


def _print_ties(console: Console, anatomy: Anatomy) -> None:
    terms = {tensor.name: tensor.term for tensor in anatomy.parameters}
    for tensor in anatomy.parameters:
        if tensor.tied_to:
            tie = (tensor.term, terms[tensor.tied_to])
            known = tie if tie[0] != tie[1] else (tensor.name, tensor.tied_to)
            _line(console, f"{known[0]} is tied to {known[1]} and counted there, once")


def _recipes_table(anatomy: Anatomy) -> Table:
    from narrowtune.anatomy import RECIPES

    table = _table("recipe", "parameters", "share", "trains")
    for name, numel in anatomy.recipe_sizes().items():
        if numel is None:
            table.add_row(name, "-", "-", "not available: this model has none of it", style="dim")
        else:
            table.add_row(name, *_size(numel, anatomy), RECIPES[name].summary)
    return table


def _print_unknown(console: Console, anatomy: Anatomy) -> None:
    """The tensors no table knows, their numbers shortened."""
    from narrowtune.anatomy.wording import shortened

    unknown = {t.name: t.term for t in anatomy.parameters if "other" in (t.tower, t.part)}
    if unknown:
        console.print("no known tower or part:", style="bold")
    for pattern, names in shortened(unknown):
        _line(console, f"  {pattern}: {unknown[names[0]]} ({len(names)})")


def _print_selection(console: Console, selection: Selection) -> None:
    """Each part's size, and under it its tensors, layers shortened: `layers.{0-3,7}.mlp...`."""
    from narrowtune.anatomy.wording import shortened

    parts: dict[str, list[SelectedTensor]] = {}
    for tensor in selection.tensors:
        parts.setdefault(_words(tensor), []).append(tensor)
    for words, tensors in parts.items():
        numel = sum(tensor.numel for tensor in tensors)
        console.print(f"{words}: {numel:,} parameters, tensors: {len(tensors)}", style="bold")
        for pattern, _ in shortened({t.name: t.region for t in tensors}):
            _line(console, f"  {pattern}")


def _words(tensor: SelectedTensor) -> str:
    """The term of a tensor; of a sliced one, those of its trained slices and where they lie."""
    if tensor.slices is None:
        return f"{tensor.tower}.{tensor.part}"
    slices = " + ".join(f"{tensor.tower}.{piece.part}" for piece in tensor.slices)
    return f"{slices} (slices of {tensor.part})"


def _line(console: Console, text: str) -> None:
    """One line as it is: names are not markup, and a name cut in two is no name."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
