"""The output folder: never overwritten, resumed only by the same experiment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from narrowtune.errors import InputError
from narrowtune.record import RECORD_NAME, Record, read_record


def refuse_occupied(out: Path, resume: bool) -> None:
    """The part of `claim` that needs no plan, to be asked before any data is read.

    Raises:
        InputError: If `out` holds another run, or anything else, or nothing to resume.
    """
    if not (out / RECORD_NAME).exists():
        _refuse_unless_empty(out, resume)
    elif not resume:
        raise InputError(
            f"{out} already holds a run ({read_record(out).status}): continue it with --resume, "
            "or name another folder with --out; nothing is overwritten"
        )


def claim(
    out: Path,
    digest: str,
    resume: bool,
    part_of_it: Callable[[Record], bool] = lambda record: False,
) -> Record | None:
    """The record to go on with, or None for a fresh folder.

    Args:
        out: The folder.
        digest: Of what is to be done.
        resume: Whether a run in it is to be gone on with.
        part_of_it: Whether a record of another digest is nevertheless a part of what is to be done.

    Raises:
        InputError: If `out` holds another run, or anything else, or nothing to resume.
    """
    refuse_occupied(out, resume)
    if not resume:
        return None
    record = read_record(out)
    if record.digest != digest and not part_of_it(record):
        raise InputError(
            f"{out} holds a run of another experiment or other data "
            f"(digest {record.digest[:12]}, now {digest[:12]}): it can't be resumed with this one; "
            "name another folder with --out"
        )
    return record


def adapter_path(out: Path, arm: str, stage: str) -> Path:
    """The folder that keeps the adapters of an arm's stage, as PEFT writes them."""
    return out / "arms" / arm / stage / "adapter"


def delta_path(out: Path, arm: str, stage: str) -> Path:
    """Where the delta of an arm after a stage lies."""
    return out / "arms" / arm / stage / "delta.safetensors"


def checkpoint_path(out: Path, arm: str, stage: str) -> Path:
    """Where a half-finished stage keeps its checkpoint."""
    return out / "arms" / arm / stage / "checkpoint.safetensors"


def looks_path(out: Path, arm: str, stage: str) -> Path:
    """Where a half-finished stage keeps the readings taken while it was taught."""
    return out / "arms" / arm / stage / "looks.jsonl"


def model_path(out: Path, arm: str) -> Path:
    """Where the finished model of an arm lies, for `from_pretrained`."""
    return out / "models" / arm


def _refuse_unless_empty(out: Path, resume: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --out needs a folder")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} is not empty and holds no run; name a new folder with --out")
    if resume:
        raise InputError(f"nothing to resume at {out}: there is no {RECORD_NAME}")
