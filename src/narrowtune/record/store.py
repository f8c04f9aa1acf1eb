"""Reading and writing a run's folder: `record.json` and the per-sample predictions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from narrowtune.errors import InputError
from narrowtune.record.schema import SCHEMA_VERSION, Record

RECORD_NAME = "record.json"


def write_text_atomically(path: Path, text: str) -> None:
    """Put `text` at `path` so that a reader, or a crash, never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".part")
    half.write_text(text, encoding="utf-8")
    os.replace(half, path)


def write_record(record: Record, folder: Path) -> Path:
    """Write `record.json` into `folder`, replacing an older one at once."""
    path = folder / RECORD_NAME
    write_text_atomically(path, record.model_dump_json(indent=1) + "\n")
    return path


def read_record(path: str | Path) -> Record:
    """The record of a run, given its folder or its `record.json`.

    Raises:
        InputError: If there is none, or it is damaged, or of another schema version.
    """
    file = Path(path) / RECORD_NAME if Path(path).is_dir() else Path(path)
    if not file.is_file():
        below = sorted(Path(path).glob(f"*/{RECORD_NAME}"))
        hint = f"; did you mean {below[0].parent}?" if below else ""
        raise InputError(f"no record at {file}: give the folder that `run` or `train` wrote{hint}")
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        version = raw.get("schema_version")
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{file} has record schema {version}; this narrowtune reads {SCHEMA_VERSION}"
            )
        return Record.model_validate(raw)
    except (ValueError, AttributeError) as error:  # pydantic's are ValueErrors too
        raise InputError(f"{file} is not a valid record: {error}") from error


def predictions_path(folder: Path, arm: str, stage: str, task: str) -> Path:
    """Where the per-sample predictions of one task on one model lie."""
    return folder / "predictions" / arm / stage / f"{task}.jsonl"


def write_predictions(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write per-sample rows as JSONL, one sample a line, in test-file order."""
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    write_text_atomically(path, "\n".join(lines) + "\n")
