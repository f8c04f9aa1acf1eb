"""Sweeps: an arm written once becomes a cell, an arm of its own, for every combination of values.

    {name: gate-up, recipe: gate-up, sweep: {learning_rate: [1e-5, 3e-5]}}

stands for `gate-up@learning_rate=1e-5` and `gate-up@learning_rate=3e-5`, both `of: gate-up`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from decimal import Decimal
from itertools import product
from typing import Any

from pydantic import BaseModel, ValidationError

from narrowtune.errors import nearest
from narrowtune.experiment.section import sections_in

Sweep = Mapping[str, Sequence[Any]]


def keys_to_sweep(training: type[BaseModel], methods: type[BaseModel]) -> list[str]:
    """All keys that can be swept: those of training, and `METHOD.KEY` of every method."""
    dotted = [
        f"{field.alias or name}.{key}"
        for name, field in methods.model_fields.items()
        for model in sections_in(field.annotation)
        for key in model.model_fields
    ]
    return [*training.model_fields, *dotted]


def wrong_sweep(sweep: Sweep, known: Sequence[str], arm: Mapping[str, Any]) -> list[str]:
    """Sentences about keys and values that make no cells.

    Args:
        sweep: Values by key.
        known: All keys that can be swept.
        arm: What else the arm gives, as plain data.
    """
    problems = []
    for key, values in sweep.items():
        where = f"sweep.{key}"
        if key not in known:
            problems.append(f"{where}: unknown key {key!r}; {nearest(key, known)}")
        if not values:
            problems.append(f"{where}: the list is empty; give the values to try")
        twice = [value for place, value in enumerate(values) if value in values[:place]]
        problems += [f"{where}: {value_name(value)} stands there twice" for value in twice]
        section, path = _place(key)
        if _found(arm.get(section), path) is not None:
            problems.append(f"{where}: the arm gives {section}.{key} too; keep one of the two")
    if "of" in arm:
        problems.append("sweep: its cells are 'of' the arm that sweeps; leave out 'of'")
    return problems


def cells_of(arm: Mapping[str, Any], sweep: Sweep) -> Iterator[dict[str, Any]]:
    """The arm with every combination of values, as plain data; the last key changes fastest."""
    for values in product(*sweep.values()):
        chosen = dict(zip(sweep, values, strict=True))
        cell = deepcopy(dict(arm)) | {"name": cell_name(arm["name"], chosen), "of": arm["name"]}
        for key, value in chosen.items():
            section, path = _place(key)
            _put(cell, (section, *path), value)
        yield cell


def wrong_cells(cells: Iterable[Mapping[str, Any]], arm: type[BaseModel]) -> list[str]:
    """Sentences about values that an arm may not have, each told once."""
    problems = []
    for cell in cells:
        try:
            arm.model_validate(cell)
        except ValidationError as error:
            for item in error.errors():
                where = ".".join(str(part) for part in item["loc"][1:])
                message = item["msg"].removeprefix("Value error, ")
                problems.append(f"sweep.{where}: {message} (given: {item['input']!r})")
    return list(dict.fromkeys(problems))


def cell_name(family: str, chosen: Mapping[str, Any]) -> str:
    """What a cell is called: its arm, then its values, as `gate-up@learning_rate=3e-5`."""
    return f"{family}@{','.join(f'{key}={value_name(value)}' for key, value in chosen.items())}"


def value_name(value: Any) -> str:
    """A value as people write it, fit for a file's name: `3e-5`, `0.01`, `8`, `cosine`, `true`."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return _number(value)
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", str(value))


def _number(value: float) -> str:
    """Plain or with an exponent, whichever is shorter; all digits kept."""
    number = Decimal(repr(value)).normalize()
    sign, digits, exponent = number.as_tuple()
    if not isinstance(exponent, int):
        return str(value)
    first, *rest = map(str, digits)
    point = f".{''.join(rest)}" if rest else ""
    short = f"{'-' * sign}{first}{point}e{exponent + len(digits) - 1}"
    plain = f"{number:f}"
    return plain if len(plain) <= len(short) else short


def _place(key: str) -> tuple[str, tuple[str, ...]]:
    """Where an arm keeps a key: its section, and the path there."""
    path = tuple(key.split("."))
    return ("training" if len(path) == 1 else "method"), path


def _found(value: Any, path: Sequence[str]) -> Any:
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _put(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *parents, last = path
    for part in parents:
        values[part] = dict(values.get(part) or {})
        values = values[part]
    values[last] = value
