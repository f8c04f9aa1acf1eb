"""From a tensor's name to its tower, part, layer and slices, by the rows of the tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from narrowtune.anatomy.configs import Configs
from narrowtune.anatomy.region import joined
from narrowtune.anatomy.tables import Fused, Row, Table, family_tables, general_table
from narrowtune.anatomy.tensors import Slice

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """Where a tensor belongs; see `TensorInfo`."""

    tower: str
    part: str
    layer: int | None
    slices: tuple[Slice, ...] | None


class Naming:
    """Names one model's tensors.

    Args:
        family: Whose rows come first: a `model_type`.
        names: Names of the model's parameters, in its order. What lies beside a tensor can decide
            its part, and how deep one stack of layers is, where the next one begins.
        config: The model's transformers config, for the sizes of fused parts; None for none.
    """

    def __init__(self, family: str, names: Sequence[str], config: Any = None) -> None:
        self._configs = Configs(config)
        self._own = family_tables(family)
        self._children = _by_parent(names)
        self._tables: dict[str, tuple[Table, ...]] = {}
        self._starts = self._stack_starts(names)

    def place(self, name: str, shape: Shape) -> Place:
        """Where a tensor of this name and shape belongs; `other` where no row knows it."""
        tower = self.tower(name)
        row = self._first("parts", tower, name)
        fused = row.fused if row else None
        return Place(
            tower=tower,
            part=row.label if row else "other",
            layer=self._layer(tower, name),
            slices=self._slices(tower, name, fused, shape) if fused else None,
        )

    def tower(self, name: str) -> str:
        """The tower a tensor belongs to, `other` if no row knows it."""
        tables = (*self._own, general_table())
        rows = (row for table in tables for row in table.towers)
        return next((r.label for r in rows if self._applies(r, "language", name)), "other")

    def _layer(self, tower: str, name: str) -> int | None:
        stack, index = self._stack(tower, name)
        return None if index is None else self._starts.get((tower, stack), 0) + index

    def _stack(self, tower: str, name: str) -> tuple[str, int | None]:
        """The stack of layers a tensor is in and its index there, from 0."""
        row = self._first("layers", tower, name)
        found = row.pattern.search(name) if row else None
        if row is None or found is None or not row.pattern.groups:
            return "", None
        return row.label or name[: found.start(1)], int(found[1])

    def _stack_starts(self, names: Iterable[str]) -> dict[tuple[str, str], int]:
        """How many layers of its tower come before each stack: stacks follow one another."""
        depths: dict[str, dict[str, int]] = defaultdict(dict)
        for name in names:
            tower = self.tower(name)
            stack, index = self._stack(tower, name)
            if index is not None:
                depths[tower][stack] = max(depths[tower].get(stack, 0), index + 1)
        starts = {}
        for tower, stacks in depths.items():
            before = 0
            for stack, depth in stacks.items():
                starts[tower, stack] = before
                before += depth
        return starts

    def _slices(
        self, tower: str, name: str, fused: Fused, shape: Shape
    ) -> tuple[Slice, ...] | None:
        """Which entries belong to which part; None where the config does not say.

        Nor where a shape contradicts it: such a tensor can still be selected as a whole, and the
        tests over all families allow none.
        """
        layer = self._stack(tower, name)[1]
        wanted = (fused.groups, *fused.shares)
        numbers = [self._configs.number(tower, share, layer) for share in wanted]
        sizes = tuple(number for number in numbers if number is not None)
        if len(sizes) < len(numbers):
            return None
        return _cut(fused, shape, sizes[0], sizes[1:])

    def _first(self, kind: str, tower: str, name: str) -> Row | None:
        rows = (row for table in self._tables_for(tower) for row in getattr(table, kind))
        return next((row for row in rows if self._applies(row, tower, name)), None)

    def _tables_for(self, tower: str) -> tuple[Table, ...]:
        if tower not in self._tables:
            inner = [t for f in self._configs.families(tower) for t in family_tables(f)]
            self._tables[tower] = (*self._own, *inner, general_table())
        return self._tables[tower]

    def _applies(self, row: Row, tower: str, name: str) -> bool:
        if not row.pattern.search(name):
            return False
        if row.when and not self._configs.matches(tower, row.when, _index(name)):
            return False
        if row.beside is None and row.without is None:
            return True
        parent = _parent(name)
        beside = [child.removeprefix(parent + ".") for child in self._children[parent]]
        return (row.beside is None or any(map(row.beside.search, beside))) and not (
            row.without is not None and any(map(row.without.search, beside))
        )


def _index(name: str) -> int | None:
    """The first number in a name: the index of its layer, where it is in one."""
    return next((int(word) for word in name.split(".") if word.isdigit()), None)


def _parent(name: str) -> str:
    """The path of the module that holds a tensor's module, or holds the tensor itself."""
    path, _, leaf = name.rpartition(".")
    return path.rpartition(".")[0] if leaf in ("weight", "bias") else path


def _by_parent(names: Iterable[str]) -> dict[str, list[str]]:
    """Names by every module path above them."""
    children: dict[str, list[str]] = defaultdict(list)
    for name in names:
        path = name
        while path:
            path = path.rpartition(".")[0]
            children[path].append(name)
    return children


@lru_cache
def _cut(
    fused: Fused, shape: Shape, groups: int, shares: tuple[int, ...]
) -> tuple[Slice, ...] | None:
    if not shape or groups < 1 or sum(shares) < 1:
        return None
    dim = fused.dim % len(shape)
    unit, left = divmod(shape[dim], groups * sum(shares))
    if left:
        return None
    ranges: dict[str, list[tuple[int, int]]] = {part: [] for part in fused.parts}
    for part, lo, hi in _pieces(fused.parts, groups, [unit * share for share in shares]):
        if lo < hi:
            ranges[part].append((lo, hi))
    return tuple(Slice(part, dim, joined(cuts)) for part, cuts in ranges.items() if cuts)


def _pieces(
    parts: Sequence[str], groups: int, sizes: Sequence[int]
) -> Iterator[tuple[str, int, int]]:
    edge = 0
    for _ in range(groups):
        for part, size in zip(parts, sizes, strict=True):
            yield part, edge, edge + size
            edge += size
