"""The output folder: never overwritten, resumed only by the same experiment."""

from __future__ import annotations

from pathlib import Path

from narrowtune.errors import InputError
from narrowtune.record import RECORD_NAME, Record, read_record


def claim(out: Path, digest: str, resume: bool) -> Record | None:
    """The record to go on with, or None for a fresh folder.

    Raises:
        InputError: If `out` holds another run, or anything else, or nothing to resume.
    """
    record_path = out / RECORD_NAME
    if not record_path.exists():
        _refuse_if_occupied(out, resume)
        return None
    record = read_record(record_path)
    if not resume:
        raise InputError(
            f"{out} already holds a run ({record.status}): continue it with --resume, "
            "or name another folder with --out; nothing is overwritten"
        )
    if record.digest != digest:
        raise InputError(
            f"{out} holds a run of another experiment or other data "
            f"(digest {record.digest[:12]}, now {digest[:12]}): it can't be resumed with this one; "
            "name another folder with --out"
        )
    return record


def trained_path(out: Path, arm: str, stage: str) -> Path:
    """Where the trained tensors of an arm after a stage lie."""
    return out / "arms" / arm / stage / "trained.safetensors"


def checkpoint_path(out: Path, arm: str, stage: str) -> Path:
    """Where a half-finished stage keeps its checkpoint."""
    return out / "arms" / arm / stage / "checkpoint.safetensors"


def model_path(out: Path, arm: str) -> Path:
    """Where the finished model of an arm lies, for `from_pretrained`."""
    return out / "arms" / arm / "model"


def _refuse_if_occupied(out: Path, resume: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --out needs a folder")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} is not empty and holds no run; name a new folder with --out")
    if resume:
        raise InputError(f"nothing to resume at {out}: there is no {RECORD_NAME}")
