"""What every part of an experiment has in common."""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every part of an experiment: immutable, strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that a field's type names, alone, in a list or as one of several."""
    if get_origin(annotation) in (Annotated, Union, UnionType, tuple, list):
        for inner in get_args(annotation):
            yield from sections_in(inner)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
