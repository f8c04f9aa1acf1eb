"""Reading an experiment from YAML: every problem at once, each with its path."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from narrowtune.errors import InputError, nearest
from narrowtune.experiment.coherence import contradictions
from narrowtune.experiment.schema import Experiment
from narrowtune.experiment.scored import HarnessSpec, TaskSpec
from narrowtune.experiment.section import sections_in

_KINDS = (TaskSpec.__name__, HarnessSpec.__name__)  # in an error's path, not in the file


def read_yaml(text: str, source: str) -> Any:
    """The value of a YAML 1.2 text (so `1e-4` is a number and `no` is a word).

    Raises:
        InputError: If it is not YAML, with the line.
    """
    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError) as error:  # ValueError: a date that no calendar has, say
        raise InputError(f"{source} is not valid YAML: {error}") from error


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment in a YAML file, with `key=value` overrides laid over it.

    Paths inside stay as written; they are relative to the file's own folder.

    Raises:
        InputError: Listing all that is wrong, each with the key's path and the nearest known key.
    """
    raw = read_experiment(path)
    apply_overrides(raw, overrides)
    return parse_experiment(raw, str(path))


def read_experiment(path: str | Path) -> dict[str, Any]:
    """What an experiment's file holds, as plain data, not yet checked.

    Raises:
        InputError: It is not there, no YAML, or no mapping.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"no experiment file at {file}")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} can't be read as UTF-8 text: {error}") from error
    raw = read_yaml(text, str(file))
    if not isinstance(raw, dict):
        raise InputError(f"{file} must hold keys such as model, stages and arms; it holds {raw!r}")
    return raw


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set keys of a plain experiment from texts such as `training.steps=100` or `arms.0.name=x`.

    Raises:
        InputError: If a text is no `key=value`, or its path leads nowhere.
    """
    for override in overrides:
        _override(raw, override)


def parse_experiment(raw: Mapping[str, Any], source: str = "experiment") -> Experiment:
    """The experiment held by plain dictionaries.

    Raises:
        InputError: Listing all that is wrong, as `load_experiment` does.
    """
    try:
        return Experiment.model_validate(raw)
    except ValidationError as error:
        problems = [_sentence(item) for item in _causes(error.errors())]
        # Pydantic looks at the whole only when every part is right.
        problems += [f"experiment: {problem}" for problem in contradictions(raw)]
        raise InputError([f"{source}: {problem}" for problem in problems]) from error


def dump_experiment(experiment: Experiment) -> str:
    """The experiment as YAML that `load_experiment` reads back to an equal value."""
    from io import StringIO

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    out = StringIO()
    yaml.dump(experiment.model_dump(mode="json", exclude_defaults=True), out)
    return out.getvalue()


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON: equal values, equal digests, on any machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _override(raw: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"override {text!r} must read key=value, as in training.steps=100")
    here: Any = raw
    *parents, last = key.strip().split(".")
    for part in parents:
        place = _place(here, part, text)
        if isinstance(here, dict) and here.get(place) is None:
            here[place] = {}
        here = here[place]
    here[_place(here, last, text)] = read_yaml(value, f"override {text!r}")


def _place(here: Any, part: str, text: str) -> Any:
    """The key or list index that `part` means in `here`."""
    if isinstance(here, list):
        if not part.isdigit() or int(part) >= len(here):
            raise InputError(f"override {text!r}: {part!r} is no place in a list of {len(here)}")
        return int(part)
    if not isinstance(here, dict):
        raise InputError(f"override {text!r}: {part!r} lies below a plain value")
    return part


def _causes(items: Sequence[Any]) -> list[Any]:
    """Without what is told otherwise, and that a list is too short because its items are wrong."""
    paths = [item["loc"] for item in items]

    def follows(item: Any) -> bool:
        here = item["loc"]
        return any(len(path) > len(here) and path[: len(here)] == here for path in paths)

    return [
        item
        for item in items
        if not (item["type"] == "too_short" and follows(item)) and not _of_the_whole(item)
    ]


def _of_the_whole(item: Any) -> bool:
    """Whether it is what `contradictions` tells one by one."""
    return not item["loc"] and item["type"] == "value_error"


def _sentence(item: Any) -> str:
    """One pydantic error as `where: what`, with the nearest key for an unknown one."""
    where = ".".join(str(part) for part in item["loc"] if part not in _KINDS) or "experiment"
    if item["type"] == "extra_forbidden":
        known = _fields_at(Experiment, item["loc"][:-1])
        return (
            f"{where}: unknown key {str(item['loc'][-1])!r}; {nearest(str(item['loc'][-1]), known)}"
        )
    if item["type"] == "missing":
        return f"{where}: this key is required"
    if item["type"] == "literal_error":
        known = re.findall(r"'([^']+)'", item["ctx"]["expected"])
        given = str(item["input"])
        return f"{where}: {given!r} is not one of its values; {nearest(given, known)}"
    message = item["msg"].removeprefix("Value error, ")
    shown = "" if item["type"] == "value_error" else f" (given: {item['input']!r})"
    return f"{where}: {message}{shown}"


def _fields_at(model: type[BaseModel], path: Sequence[Any]) -> list[str]:
    found: list[type[BaseModel]] = []
    for part in path:
        if isinstance(part, int):
            continue
        kinds = {kind.__name__: kind for kind in found}
        if part in kinds:
            model = kinds[str(part)]
            continue
        field = _named_fields(model).get(str(part))
        found = list(sections_in(field.annotation)) if field else []
        if not found:
            return []
        model = found[0]
    return list(_named_fields(model))


def _named_fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Fields by the keys that a file writes."""
    return {field.alias or name: field for name, field in model.model_fields.items()}
