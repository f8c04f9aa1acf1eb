"""The rows that name tensors, read from TOML: a family is data, not an `if`.

`general.toml` names most families. `families/<model_type>.toml` states what differs, and its rows
are tried first; its key `like` borrows other families' rows. A model made of models (a vision
tower of one family, a language tower of another) borrows theirs, each for its own tower.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import Any

_END = r"(?:\.|$)"
_FOLDER = files("narrowtune.anatomy")


@dataclass(frozen=True)
class Row:
    """One row: what a name must look like, and what it then is.

    Attributes:
        pattern: Searched in the full name.
        label: A tower or a part; for a layer row the name of its stack, if it has one.
        beside: Searched in the names that lie under the same parent module, relative to it;
            one must match.
        without: The same, but none may match.
        when: Values that the tower's config must have.
        fused: How the tensor is divided among several parts, if it is fused.
    """

    pattern: re.Pattern[str]
    label: str = ""
    beside: re.Pattern[str] | None = None
    without: re.Pattern[str] | None = None
    when: Mapping[str, Any] = field(default_factory=dict)
    fused: Fused | None = None


@dataclass(frozen=True)
class Fused:
    """How a tensor stacks several parts along a dimension.

    The dimension is cut into `groups` equal pieces, and each piece into `shares` of the parts, in
    this order. Shares and groups are numbers, or words that the tower's config knows.
    """

    dim: int
    parts: tuple[str, ...]
    shares: tuple[int | str, ...]
    groups: int | str


@dataclass(frozen=True)
class Table:
    """All rows of one TOML file."""

    towers: tuple[Row, ...]
    layers: tuple[Row, ...]
    parts: tuple[Row, ...]
    configs: tuple[Row, ...]
    like: tuple[str, ...]


@lru_cache
def general_table() -> Table:
    """The rows that hold for most families."""
    return _table(tomllib.loads(_FOLDER.joinpath("general.toml").read_text("utf-8")))


@lru_cache
def family_tables(family: str) -> tuple[Table, ...]:
    """A family's own rows and, after them, those of the families it is `like`."""
    found: dict[str, Table] = {}
    wanted = [family]
    while wanted:
        name = wanted.pop(0)
        entry = _FOLDER.joinpath("families", f"{name}.toml")
        if name not in found and entry.is_file():
            found[name] = _table(tomllib.loads(entry.read_text("utf-8")))
            wanted += found[name].like
    return tuple(found.values())


def _table(values: dict[str, Any]) -> Table:
    unknown = values.keys() - {"tower", "layer", "part", "config", "like"}
    assert not unknown, f"unknown tables {unknown}"
    like = values.get("like", [])
    return Table(
        towers=_rows(values.get("tower", ()), "tower"),
        layers=_rows(values.get("layer", ()), "stack"),
        parts=_rows(values.get("part", ()), "part"),
        configs=_rows(values.get("config", ()), "tower"),
        like=(like,) if isinstance(like, str) else tuple(like),
    )


def _rows(rows: Iterable[dict[str, Any]], label: str) -> tuple[Row, ...]:
    return tuple(_row(dict(row), label) for row in rows)


def _row(row: dict[str, Any], label: str) -> Row:
    fused = _fused(row) if "slices" in row else None
    made = Row(
        pattern=_compile(row.pop("match")),
        label=row.pop(label, ""),
        beside=_maybe(row.pop("beside", None)),
        without=_maybe(row.pop("without", None)),
        when=row.pop("when", {}),
        fused=fused,
    )
    assert not row, f"unknown keys {row} beside {made.pattern.pattern}"
    return made


def _fused(row: dict[str, Any]) -> Fused:
    parts = tuple(row.pop("slices"))
    shares = tuple(row.pop("shares", (1,) * len(parts)))
    assert len(parts) == len(shares), f"{parts} have {len(shares)} shares"
    return Fused(row.pop("dim"), parts, shares, row.pop("groups", 1))


def _maybe(pattern: str | None) -> re.Pattern[str] | None:
    return None if pattern is None else _compile(pattern)


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern.replace("<end>", _END))
