"""Releases that are a hub repository of parquet shards: fetched, found, read row by row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from narrowtune.data.prepare.download import INSTALL
from narrowtune.data.prepare.release import Progress
from narrowtune.errors import InputError, Problems

_SHARD = re.compile(r"(?P<split>\w+)-(?P<number>\d{5})-of-(?P<total>\d{5})(-[0-9a-f]+)?\.parquet")
_ROWS_AT_ONCE = 64


def shards(folder: Path, split: str, layout: str) -> list[Path]:
    """The split's files under `folder/data`, in order.

    Raises:
        InputError: If there are none, or the numbers in their names show that some are missing.
    """
    found = {}
    for path in (folder / "data").glob(f"{split}-*.parquet"):
        if (match := _SHARD.fullmatch(path.name)) and match["split"] == split:
            found[int(match["number"])] = (path, int(match["total"]))
    if not found:
        raise InputError(
            f"{folder} lacks data/{split}-*.parquet; the release is laid out as {layout}"
        )
    total = max(total for _, total in found.values())
    lost = [f"data/{split}-{n:05d}-of-{total:05d}.parquet" for n in range(total) if n not in found]
    if lost:
        raise InputError(f"{folder} lacks {', '.join(lost)}; download the release again")
    return [found[number][0] for number in sorted(found)]


class Table:
    """The rows of a split, all of whose files are looked at before any row is read.

    Args:
        files: Its shards in order.
        columns: What each must have.

    Raises:
        InputError: If a file is no parquet, or lacks columns.
    """

    def __init__(self, files: Sequence[Path], columns: Sequence[str]) -> None:
        self._files, self._columns = files, list(columns)
        problems = Problems()
        self.count = 0
        for file in files:
            with problems.collect():
                self.count += _checked(file, columns)
        problems.check()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Every row as a dictionary of the columns that were asked for."""
        for file in self._files:
            with _parquet().ParquetFile(file) as table:
                for batch in table.iter_batches(_ROWS_AT_ONCE, columns=self._columns):
                    yield from batch.to_pylist()


def image_bytes(value: Any) -> bytes | None:
    """The encoded image in a cell as `datasets` stores one; None where there is none."""
    data = value.get("bytes") if isinstance(value, dict) else value
    return data if isinstance(data, bytes) and data else None


def fetch_hub(repository: str, patterns: Sequence[str], to: Path) -> tuple[Path, str]:
    """A data set of the hub in `to`, files that are there already kept; and what it is.

    Raises:
        InputError: If the hub can't be reached or does not have it.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        commit = HfApi().dataset_info(repository).sha
        snapshot_download(
            repository,
            repo_type="dataset",
            revision=commit,
            allow_patterns=list(patterns),
            local_dir=to,
        )
    # The hub's client, its HTTP library and the disk each have errors of their own; whichever
    # objects, the release cannot be had.
    except Exception as error:
        raise no_network(f"data set {repository} of the hub", error) from error
    return to, f"hf://datasets/{repository}@{commit}"


def no_network(what: str, error: BaseException) -> InputError:
    """The one message for whatever keeps a release from being fetched."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return InputError(
        f"cannot fetch {what}: {lines[0][:200]}; run this where it can be reached, or download "
        "the release elsewhere and give its folder with --from"
    )


def hub(repository: str, patterns: Sequence[str]) -> Any:
    """The `Dataset.fetch` of a data set that lies on the hub."""

    def fetch(to: Path, progress: Progress) -> tuple[Path, str]:
        return fetch_hub(repository, patterns, to)

    return fetch


def _checked(file: Path, columns: Sequence[str]) -> int:
    """How many rows a sound file has."""
    try:
        with _parquet().ParquetFile(file) as table:
            names, rows = table.schema_arrow.names, int(table.metadata.num_rows)
    except (OSError, ValueError) as error:  # pyarrow's own errors derive from ValueError
        raise InputError(f"{file} is no whole parquet file: {error}") from error
    lost = [column for column in columns if column not in names]
    if lost:
        raise InputError(
            f"{file} has no column {', '.join(map(repr, lost))}; it has {', '.join(names)}"
        )
    return rows


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"reading parquet files needs the package pyarrow: {INSTALL}") from error
    return pyarrow.parquet
