"""What a search leaves behind, as data: `search.json` beside the folders of its rungs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field

from narrowtune.errors import InputError
from narrowtune.record.schema import Row
from narrowtune.record.store import write_text_atomically

SEARCH_NAME = "search.json"
SEARCH_VERSION = 1


class Costs(Row):
    """What candidates cost, in seconds: by the pilot, then by the last rung.

    Attributes:
        fixed: Per candidate whatever its length: loading the model, hashing what is frozen.
        per_token: Of training.
        per_test: Per sample scored.
    """

    fixed: float
    per_token: float
    per_test: float


class Planned(Row):
    """A rung as it was meant to be: how many candidates, which shares of steps and tests."""

    candidates: int
    steps: float
    tests: float


class RungRow(Row):
    """One round of a search: which candidates were taught, how long, scored on how much.

    Attributes:
        name: The folder of its run.
        arms: The candidates, the best of the rung before first.
        steps: Share of the experiment's steps that they are taught.
        tests: Share of the test samples that they are scored on.
    """

    name: str
    arms: tuple[str, ...]
    steps: float
    tests: float


class SearchRecord(Row):
    """A search as far as it went, and the budget it keeps to.

    Attributes:
        digest: Of the plan that holds all candidates.
        seconds: The budget of time.
        memory: The budget of memory in bytes; None for no limit.
        allowed_loss: The mean held-out score that may be lost, a fraction.
        spent: Seconds so far, over all sessions.
        candidates: All of them, in the order they are tried.
        left_out: Why candidates were not tried, by name.
        costs: Measured by the pilot; None before it.
        planned: The rungs as designed after the pilot, and longer ones for time that was left.
        rungs: Those begun.
        status: Where it stands; `complete` too where the time ran out before the last rung.
    """

    schema_version: int = SEARCH_VERSION
    digest: str
    seconds: float
    memory: int | None = None
    allowed_loss: float
    spent: float = 0.0
    candidates: tuple[str, ...] = ()
    left_out: dict[str, str] = Field(default={})
    costs: Costs | None = None
    planned: tuple[Planned, ...] = ()
    rungs: tuple[RungRow, ...] = ()
    status: Literal["running", "interrupted", "complete"] = "running"


def write_search(search: SearchRecord, folder: Path) -> Path:
    """Write `search.json` into `folder`, replacing an older one at once."""
    path = folder / SEARCH_NAME
    write_text_atomically(path, search.model_dump_json(indent=1) + "\n")
    return path


def read_search(folder: Path) -> SearchRecord:
    """The search whose folder this is.

    Raises:
        InputError: If there is none, or it is damaged or of another version.
    """
    path = folder / SEARCH_NAME
    if not path.is_file():
        raise InputError(f"no search at {path}: give the folder that `recommend` wrote")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        version = raw.get("schema_version")
        if version != SEARCH_VERSION:
            raise InputError(f"{path} has schema {version}; this narrowtune reads {SEARCH_VERSION}")
        return SearchRecord.model_validate(raw)
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path} is not a valid search: {error}") from error
