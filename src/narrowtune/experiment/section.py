"""What every part of an experiment has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every part of an experiment: immutable, strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
