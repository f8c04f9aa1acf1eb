"""`manifest.json`: what a prepared folder was made from, with which parameters, and its hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from narrowtune.data.prepare.download import digest
from narrowtune.errors import InputError
from narrowtune.record.store import write_text_atomically

MANIFEST = "manifest.json"
REVISION = 1
"""Raised whenever the same release would give other files."""


@dataclass
class Manifest:
    """The same release and parameters give the same manifest, wherever and whenever it is made.

    Attributes:
        dataset: What was prepared.
        parameters: All that decides what comes out, besides the release.
        complete: False while it is being made, and after it was broken off.
        title: The data set's name and paper.
        homepage: Where its release is described.
        licence: What its publishers allow.
        metric: How its answers are judged.
        origin: Address and commit of the release, or "a local folder".
        rows: Rows by split.
        left_out: Rows of the release that became none, by split.
        files: SHA-256 of each file by its path, images aside.
        images: SHA-256 over the images that a file names, by the file's path (see `of_images`).
            A folder made before these were noted has none, and its images are only looked for.
        notes: What a reader of the numbers should know.
        revision: Of the preparation.
    """

    dataset: str
    parameters: dict[str, Any]
    complete: bool = False
    title: str = ""
    homepage: str = ""
    licence: str = ""
    metric: str = ""
    origin: str = ""
    rows: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    revision: int = REVISION

    def write(self, out: Path) -> None:
        """Put it into the folder, replacing an older one at once."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        write_text_atomically(out / MANIFEST, text + "\n")

    def damaged(self, out: Path) -> list[str]:
        """Files that are gone or differ from what was written, and files whose images do."""
        changed = [
            name
            for name, value in self.files.items()
            if not (out / name).is_file() or digest(out / name) != value
        ]
        return changed or [name for name in self.files if self._has_other_images(out / name, name)]

    def _has_other_images(self, file: Path, name: str) -> bool:
        if name in self.images:
            return of_images(file) != self.images[name]
        return not all(image.is_file() for image in _images(file))


def of_images(file: Path) -> str:
    """SHA-256 over the contents of the images that a JSONL file of ours names, in its order."""
    value = hashlib.sha256()
    for image in _images(file):
        value.update((digest(image) if image.is_file() else "gone").encode())
    return value.hexdigest()


def begin(out: Path, dataset: str, parameters: dict[str, Any]) -> Manifest:
    """The manifest of a folder that may be written to: a new one, or one that is gone on with.

    Raises:
        InputError: If the folder holds something else, or was made otherwise.
    """
    new = Manifest(dataset, parameters)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder with --out")
    if not out.is_dir() or not any(out.iterdir()):
        new.write(out)
        return new
    if not (out / MANIFEST).is_file():
        raise InputError(f"{out} is not empty, and nothing was prepared there; give a new --out")
    old = read_manifest(out)
    if old.dataset != dataset:
        raise InputError(f"{out} holds {old.dataset}; give a new --out for {dataset}")
    if differences := _differences(old, new):
        raise InputError(
            f"{out} holds {old.dataset} prepared with {'; '.join(differences)}; give a new --out, "
            "or the same again to go on with it"
        )
    return old


def read_manifest(out: Path) -> Manifest:
    """The manifest of a prepared folder.

    Raises:
        InputError: If it is there but cannot be read.
    """
    try:
        found = Manifest(**json.loads((out / MANIFEST).read_text(encoding="utf-8")))
        if not all(isinstance(one, dict) for one in (found.parameters, found.files, found.images)):
            raise TypeError("its parameters, files and images are no tables")
        return found
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{out / MANIFEST} is no manifest of a prepared data set: {error}"
        ) from error


def _differences(old: Manifest, new: Manifest) -> list[str]:
    """What an earlier call was given otherwise."""
    pairs: list[tuple[str, Any, Any]] = [("revision", old.revision, new.revision)]
    pairs += [(key, old.parameters.get(key), value) for key, value in new.parameters.items()]
    return [f"{key} {one} (now {other})" for key, one, other in pairs if one != other]


def _images(file: Path) -> Iterator[Path]:
    """The images that a JSONL file of ours names, each once."""
    seen = set()
    for line in file.read_text(encoding="utf-8").splitlines():
        for message in json.loads(line).get("messages", ()):
            for block in message["content"]:
                image = block.get("image") if isinstance(block, dict) else None
                if image is not None and image not in seen:
                    seen.add(image)
                    yield file.parent / image
