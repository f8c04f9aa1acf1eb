"""Data files on their way into a plan: read, checked, and noted for the record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from narrowtune.data.example import Example
from narrowtune.data.formats import read_checked
from narrowtune.data.images import file_digest
from narrowtune.experiment import Scored
from narrowtune.record import DataFile

T = TypeVar("T")


class DataReader:
    """Reads an experiment's files; `files` tells what was read, by the path as given.

    `taught` and `tested` hold the sound rows of training and test files, by stage and task; what
    a harness asks belongs to `tested` too.

    Args:
        root: The folder that relative paths start from.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[str, DataFile] = {}
        self._images: dict[str, set[Path]] = {}
        self.taught: dict[str, list[Example]] = {}
        self.tested: dict[str, list[Example]] = {}

    def read(
        self,
        spec: Scored,
        file: str,
        check: Callable[[list[Example]], T],
        *,
        limit: int | None,
        test: bool = False,
    ) -> T:
        """What `check` makes of the file's examples; the ids of a test file must differ.

        Raises:
            InputError: With the file's own problems and those that `check` finds in sound rows.
        """
        path = self.root / file

        def noted(examples: list[Example]) -> T:
            # Another entry may read other rows of the same file: the hash covers all of them.
            seen = self._images.setdefault(file, set())
            seen.update(image for example in examples for image in example.images)
            rows = max(len(examples), self.files[file].rows if file in self.files else 0)
            self.files[file] = DataFile(
                path=file, rows=rows, images=len(seen), sha256=_sha256([path, *sorted(seen)])
            )
            (self.tested if test else self.taught)[spec.name] = examples
            return check(examples)

        images = self.root / spec.images if spec.images else None
        return read_checked(path, noted, image_root=images, limit=limit, unique_ids=test)


def _sha256(paths: Iterable[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        whole.update(file_digest(path))
    return whole.hexdigest()
