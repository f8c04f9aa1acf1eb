"""What must fit together across an experiment's sections, told even while other keys are wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from narrowtune.experiment.repeats import twice, wrong_orders, wrong_seeds

T = TypeVar("T")
_Names = list[str | None]
_SEEDS: TypeAdapter[tuple[int, ...]] = TypeAdapter(tuple[int, ...])
_ORDERS: TypeAdapter[Literal["all"] | tuple[tuple[str, ...], ...]] = TypeAdapter(
    Literal["all"] | tuple[tuple[str, ...], ...]
)


def contradictions(raw: Mapping[str, Any]) -> list[str]:
    """A sentence for each thing that contradicts another in an experiment's plain data.

    Sections may be wrong in themselves: what cannot be read is nobody's contradiction.
    """
    stages, held_out = _names(raw, "stages"), _names(raw, "held_out")
    problems = [*_names_taken("arm", _names(raw, "arms"))]
    problems += _names_taken("task", stages + held_out)
    seeds = _read(raw, "seeds", _SEEDS, ())
    problems += wrong_seeds(seeds, _read(raw, "seed", TypeAdapter(int), 0))
    orders, known = _read(raw, "orders", _ORDERS, ()), [name for name in stages if name]
    if orders != "all" and len({*known}) == len(stages):
        problems += wrong_orders(orders, known)
    evaluated = raw.get("evaluate")
    if raw.get("noise_floor") and isinstance(evaluated, list | tuple) and "base" not in evaluated:
        problems.append("noise_floor scores the base again: add base to evaluate")
    probes = [name for name in _names(raw, "probes", key="probe") if name]
    return problems + [f"probe {name} is asked for twice" for name in twice(probes)]


def harness_name(given: Mapping[str, Any]) -> str:
    """What a harness's task is called where it is given no name: as in the harness, made plain."""
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", str(given.get("task", "task")))


def _names_taken(kind: str, names: _Names) -> list[str]:
    given = [name for name in names if name]
    problems = []
    if repeated := sorted(twice(given)):
        problems.append(f"{kind} names must differ; used twice: {', '.join(repeated)}")
    if "base" in given:
        problems.append(f"the {kind} name 'base' is taken: it means the untouched model")
    return problems


def _names(raw: Mapping[str, Any], section: str, key: str = "name") -> _Names:
    """What a section's entries are called; None for one that does not say."""
    entries = raw.get(section)
    return [_name(one, key) for one in entries] if isinstance(entries, list | tuple) else []


def _name(entry: Any, key: str) -> str | None:
    if isinstance(entry, str) and key == "probe":
        return entry
    if not isinstance(entry, Mapping):
        return None
    if key == "name" and "harness" in entry and "name" not in entry:
        return harness_name(entry)
    name = entry.get(key)
    return name if isinstance(name, str) else None


def _read(raw: Mapping[str, Any], key: str, kind: TypeAdapter[T], default: T) -> T:
    """The key's value, or the default where it is not given or wrong in itself."""
    try:
        return kind.validate_python(raw[key])
    except (KeyError, ValidationError):
        return default
