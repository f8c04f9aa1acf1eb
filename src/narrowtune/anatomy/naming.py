"""From a tensor's name to its tower, part and layer, by tables: a family is data, not an `if`.

`general.toml` names most families; `families/<model_type>.toml` states what differs, and its
rows are tried first. Its key `like` borrows another family's rows.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from narrowtune.anatomy.tensors import Slice

_END = r"(?:\.|$)"
Rows = tuple[tuple[re.Pattern[str], str], ...]


@dataclass(frozen=True)
class Fused:
    """A tensor that stacks equal shares of several parts along `dim`, in this order."""

    pattern: re.Pattern[str]
    dim: int
    parts: tuple[str, ...]

    def slices(self, shape: tuple[int, ...]) -> tuple[Slice, ...]:
        """Which rows of a tensor of this shape belong to which part."""
        size, left = divmod(shape[self.dim], len(self.parts))
        # An invariant of the table, not the user's doing: a wrong row must not pass silently.
        assert left == 0, f"{self.pattern.pattern}: {shape} has no {len(self.parts)} equal shares"
        return tuple(
            Slice(part, self.dim, ((i * size, (i + 1) * size),))
            for i, part in enumerate(self.parts)
        )


@dataclass(frozen=True)
class Naming:
    """The ordered rows that name one family's tensors; the first hit wins."""

    towers: Rows
    parts: Rows
    layers: tuple[re.Pattern[str], ...]
    fused: tuple[Fused, ...]

    def tower(self, name: str) -> str:
        """The tower a tensor belongs to, `other` if no row knows it."""
        return _first(self.towers, name)

    def part(self, name: str) -> str:
        """The role a tensor plays, `other` if no row knows it."""
        return _first(self.parts, name)

    def layer(self, name: str) -> int | None:
        """The index of the layer a tensor belongs to, None outside the stack."""
        hits = (pattern.search(name) for pattern in self.layers)
        return next((int(hit[1]) for hit in hits if hit), None)

    def slices(self, name: str, shape: tuple[int, ...]) -> tuple[Slice, ...] | None:
        """The parts fused into a tensor, None for a tensor with one role."""
        row = next((row for row in self.fused if row.pattern.search(name)), None)
        return None if row is None else row.slices(shape)


@lru_cache
def naming_of(family: str) -> Naming:
    """The rows for one `model_type`: its own, then those it is like, then the general ones."""
    folder = files("narrowtune.anatomy")
    general = tomllib.loads(folder.joinpath("general.toml").read_text("utf-8"))
    tables = [*_family_tables(family), general]

    def rows(kind: str) -> list[dict[str, Any]]:
        return [row for table in tables for row in table.get(kind, [])]

    return Naming(
        towers=tuple((_compile(row["match"]), row["tower"]) for row in rows("tower")),
        parts=tuple((_compile(row["match"]), row["part"]) for row in rows("part")),
        layers=tuple(_compile(row["match"]) for row in rows("layer")),
        fused=tuple(
            Fused(_compile(row["match"]), row["dim"], tuple(row["equal"])) for row in rows("fused")
        ),
    )


def _family_tables(family: str) -> list[dict[str, Any]]:
    """The family's file and, after it, the files it is `like`; none for most families."""
    tables: list[dict[str, Any]] = []
    known = {
        entry.name: entry for entry in files("narrowtune.anatomy").joinpath("families").iterdir()
    }
    wanted: str | None = family
    while wanted is not None and (entry := known.get(f"{wanted}.toml")) is not None:
        tables.append(tomllib.loads(entry.read_text("utf-8")))
        wanted = tables[-1].get("like")
    return tables


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern.replace("<end>", _END))


def _first(rows: Rows, name: str) -> str:
    return next((label for pattern, label in rows if pattern.search(name)), "other")
