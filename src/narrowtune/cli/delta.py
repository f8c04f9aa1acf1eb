"""`delta`: what a stage changed, looked at, put on a base, scaled, proven."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from narrowtune.cli.inspect import Trust

if TYPE_CHECKING:
    from narrowtune.delta import Check
    from narrowtune.record.delta_header import Header

Base = Annotated[
    str,
    typer.Argument(help="The model the delta was made from: bundled name, folder or hub id."),
]
File = Annotated[Path, typer.Argument(metavar="DELTA", help="A delta.safetensors file.")]
Files = Annotated[
    list[Path],
    typer.Argument(metavar="DELTA...", help="Deltas of successive stages, in their order."),
]
Alpha = Annotated[
    float,
    typer.Option(
        help="Share of the (last) delta: 1 gives the trained weights, 0 what it began from."
    ),
]
Revision = Annotated[str | None, typer.Option(help="Commit of a hub model.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, ...")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def delta_show_command(file: File, json: Json = False) -> None:
    """Say where a delta comes from and what it holds; no weights are loaded."""
    from narrowtune.record.delta_header import read_header

    header = read_header(file)
    if json:
        typer.echo(json_module.dumps(_facts(header, file), indent=1))
    else:
        _print_header(header, file)


def delta_apply_command(
    base: Base,
    delta: Files,
    out: Annotated[Path, typer.Option("--out", help="New folder for the model.")],
    alpha: Alpha = 1.0,
    revision: Revision = None,
    device: Device = "cpu",
    trust_remote_code: Trust = False,
) -> None:
    """Write the base with a delta on it as a folder that `from_pretrained` loads."""
    _refuse_existing(out)
    from narrowtune.delta import load
    from narrowtune.models.loading import save_model
    from narrowtune.models.quantized_linear import dequantize, quantization_of

    source = {"revision": revision, "device": device, "trust_remote_code": trust_remote_code}
    model = load(base, delta=delta, alpha=alpha, **source)  # type: ignore[arg-type]
    packed = quantization_of(model)
    dequantize(model)
    save_model(model, base, out, revision)
    rounded = "" if packed is None else f"; rounded, and unpacked again: {packed}"
    typer.echo(f"wrote {out}{rounded}")


def delta_scale_command(
    delta: File,
    alpha: Annotated[float, typer.Option(help="What to multiply the change by.")],
    out: Annotated[Path, typer.Option("--out", help="New file for the scaled delta.")],
) -> None:
    """Write a delta whose change counts for more or less; it multiplies with `apply --alpha`."""
    _refuse_existing(out)
    from narrowtune.delta import read_delta

    scaled = read_delta(delta).scaled(alpha)
    scaled.save(out)
    typer.echo(f"wrote {out}: alpha {scaled.header.alpha:g}")


def delta_verify_command(
    base: Base,
    delta: Files,
    tuned: Annotated[
        str | None, typer.Option(help="A model said to be the base with the delta on it.")
    ] = None,
    revision: Revision = None,
    device: Device = "cpu",
    trust_remote_code: Trust = False,
    json: Json = False,
) -> None:
    """Prove that the base is the delta's, and that training changed nothing outside it.

    With several deltas the last one is verified, on the others. Exits with 3 if a check fails.
    """
    from narrowtune.delta import apply_deltas, read_delta, verify
    from narrowtune.models.loading import load_model

    *before, last = [read_delta(path) for path in delta]
    dtype = last.header.base.dtype
    packed = last.header.base.quantization
    model = load_model(base, revision, dtype, device, trust_remote_code, packed)
    apply_deltas(model, before)
    other = None if tuned is None else load_model(tuned, None, dtype, device, trust_remote_code)
    checks = verify(model, last, other)
    if json:
        typer.echo(json_module.dumps([vars(check) for check in checks], indent=1))
    else:
        _print_checks(checks)
    if not all(check.passed for check in checks):
        raise typer.Exit(3)


def _refuse_existing(out: Path) -> None:
    from narrowtune.errors import InputError

    if out.exists():
        raise InputError(f"{out} exists; name a new one with --out, nothing is overwritten")


def _facts(header: Header, file: Path) -> dict[str, Any]:
    """The header with its sums; entries as they are."""
    return {
        "file": str(file),
        "bytes": file.stat().st_size,
        "numel": header.numel,
        "parts": _parts(header),
        **header.model_dump(mode="json"),
    }


def _parts(header: Header) -> dict[str, dict[str, int]]:
    """Tensors and numbers by the words that select them."""
    parts: dict[str, dict[str, int]] = {}
    for name, entry in header.entries.items():
        row = parts.setdefault(" + ".join(entry.terms), {"tensors": 0, "numel": 0})
        row["tensors"] += 1
        row["numel"] += header.numel_of(name)
    return parts


def _print_header(header: Header, file: Path) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from narrowtune.report.units import memory

    base, continues = header.base, header.parent_sha256 != header.base.sha256
    revision = f" at {base.revision}" if base.revision else ""
    typer.echo(f"{file}: {header.numel:,} numbers, {memory(file.stat().st_size)}")
    typer.echo(f"base      {base.id}{revision}, {base.dtype}, sha256 {base.sha256[:12]}")
    if base.quantization is not None:
        typer.echo(f"quantised {base.quantization}")
    if continues:
        typer.echo(f"continues sha256 {header.parent_sha256[:12]}, the stage before")
    typer.echo(f"gives     sha256 {header.result_sha256[:12]} in full")
    if header.alpha != 1.0:
        typer.echo(
            f"scaled    alpha {header.alpha:g}; hash and scores are those of the whole change"
        )
    keep = f", keeping {', '.join(header.keep)}" if header.keep else ""
    typer.echo(f"trained   {', '.join(header.terms)}{keep}")
    if header.arm:
        typer.echo(f"from      arm {header.arm}, stage {header.stage}")
    typer.echo(f"scores    {(header.scores_sha256 or 'not taken')[:12]}")
    typer.echo(f"written   by {header.tool}")
    table = Table(box=SIMPLE_HEAD)
    table.add_column("part")
    for column in ("tensors", "numbers"):
        table.add_column(column, justify="right")
    for part, row in _parts(header).items():
        table.add_row(part, str(row["tensors"]), f"{row['numel']:,}")
    Console().print(table)


def _print_checks(checks: tuple[Check, ...]) -> None:
    for check in checks:
        typer.echo(f"{'ok    ' if check.passed else 'FAILED'} {check.name}: {check.found}")
