"""What a model's config says about one of its towers: its family and its numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from narrowtune.anatomy.tables import family_tables, general_table

_OPERATION = re.compile(r"\s*([*/+-])\s*")


class Configs:
    """The configs of a model's towers.

    Args:
        config: A transformers config, or None for a module without one.
    """

    def __init__(self, config: Any) -> None:
        self._config = config
        self._layers: dict[tuple[int, int], Any] = {}

    @cached_property
    def inner(self) -> tuple[tuple[str, Any], ...]:
        """The configs within the config, each with the tower it is about."""
        return tuple(self._inner(self._config))

    def families(self, tower: str) -> tuple[str, ...]:
        """The `model_type` of the configs within that are about a tower."""
        return tuple(config.model_type for about, config in self.inner if about == tower)

    def matches(self, tower: str, wanted: Mapping[str, Any], layer: int | None = None) -> bool:
        """Whether a tower's config, or that of one of its layers, has all the wanted values."""
        return all(self._value(tower, key, layer) == value for key, value in wanted.items())

    def number(self, tower: str, expression: int | str, layer: int | None = None) -> int | None:
        """A number as a table writes it: `12`, `num_heads`, `num_heads/num_kv_heads`.

        Evaluated from left to right; None if the config lacks a word of it. With a layer, the
        number that holds there, where the config's layers differ.
        """
        if isinstance(expression, int):
            return expression
        first, *rest = _OPERATION.split(expression)
        total = self._atom(tower, first, layer)
        for operation, word in zip(rest[::2], rest[1::2], strict=True):
            operand = self._atom(tower, word, layer)
            if total is None or operand is None:
                return None
            total = _apply(operation, total, operand)
        return total

    def _atom(self, tower: str, word: str, layer: int | None) -> int | None:
        return int(word) if word.isdigit() else self._value(tower, word, layer)

    def _value(self, tower: str, path: str, layer: int | None) -> Any:
        """A value by its dotted path, from the tower's config or the whole's; None for none."""
        for config in (*(c for about, c in self.inner if about == tower), self._config):
            value = self._at(config, layer)
            for word in path.split("."):
                value = getattr(value, word.removesuffix("[]"), None)
                if word.endswith("[]"):  # a list with an entry for each layer
                    value = _entry(value, layer)
            if value is not None:
                return value
        return None

    def _at(self, config: Any, layer: int | None) -> Any:
        """The config of one layer, where a config's layers differ."""
        if layer is None or not getattr(config, "is_heterogeneous", False):
            return config
        key = (id(config), layer)
        if key not in self._layers and layer < len(config.per_layer_config):
            self._layers[key] = config.per_layer_config[layer]
        return self._layers.get(key, config)

    def _inner(self, config: Any) -> Iterator[tuple[str, Any]]:
        for key in getattr(config, "sub_configs", ()):
            child = getattr(config, key, None)
            tables = (*family_tables(config.model_type), general_table())
            rows = (row for table in tables for row in table.configs)
            row = next((row for row in rows if row.pattern.search(key)), None)
            if row is not None and hasattr(child, "model_type"):
                yield row.label, child
                yield from self._inner(child)


def _entry(values: Any, layer: int | None) -> Any:
    inside = values is not None and layer is not None and layer < len(values)
    return values[layer] if inside else None


def _apply(operation: str, left: int, right: int) -> int | None:
    """The result, None where a division leaves a rest."""
    if operation == "/":
        return left // right if right and left % right == 0 else None
    return {"*": left * right, "+": left + right, "-": left - right}[operation]
