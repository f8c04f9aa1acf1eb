"""Data files read and judged: JSONL with `messages`, and LLaVA's JSON. No torch behind it.

The format is told from the content. Everything wrong with a file is collected and told at once,
each with its line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from narrowtune.data.collector import collector_paused
from narrowtune.data.example import Example
from narrowtune.data.rows import Reader
from narrowtune.errors import InputError

SHOWN = 20

T = TypeVar("T")


@dataclass
class Scan:
    """What a file holds, each complaint with its line.

    Attributes:
        examples: The sound rows, in file order.
        problems: What is wrong with the others.
        repeats: Sound rows whose id an earlier one has: usual in training files, where an image's
            id stands on several rows; wrong in test files, whose predictions are paired by id.
    """

    examples: list[Example] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    repeats: list[str] = field(default_factory=list)

    def complaints(self, unique_ids: bool) -> list[str]:
        """Every problem, repeated ids counted as such if they must differ."""
        return [*self.problems, *(self.repeats if unique_ids else [])]


@dataclass(frozen=True)
class Row:
    """One row as JSON, and where it stands; `value` is None where `problem` says why."""

    source: str
    fallback_id: str
    value: Any = None
    problem: str | None = None


def read_examples(
    path: str | Path,
    *,
    image_root: str | Path | None = None,
    limit: int | None = None,
    unique_ids: bool = False,
) -> list[Example]:
    """The examples of a data file, in its order.

    Args:
        path: JSONL with `messages`, or LLaVA JSON (an array, or JSONL of the same rows).
        image_root: Where relative image paths start; by default the file's own folder.
        limit: Read only so many rows.
        unique_ids: Refuse an id that stands on two rows. For test files: predictions of two
            models are paired by id. Training files often have an image's id on several rows.

    Raises:
        InputError: Anything is wrong with the file; all of it, each with its line.
    """
    return read_checked(
        path, lambda rows: rows, image_root=image_root, limit=limit, unique_ids=unique_ids
    )


def read_rows(
    rows: Iterable[Mapping[str, Any]],
    name: str,
    *,
    image_root: str | Path = ".",
    limit: int | None = None,
) -> list[Example]:
    """The examples of rows that are in memory already, in either format.

    Args:
        rows: As they would stand in a file; a `datasets.Dataset` will do.
        name: What error messages call them by.
        image_root: Where relative image paths start.
        limit: Read only so many rows.

    Raises:
        InputError: Anything is wrong with them; all of it, each with its place.
    """
    scan, first_seen = Scan(), dict[str, str]()
    for number, row in enumerate(islice(rows, limit), start=1):
        value = dict(row) if isinstance(row, Mapping) else row
        _add_row(scan, Row(f"{name}:{number}", str(number), value), Path(image_root), first_seen)
    if not scan.examples and not scan.problems:
        scan.problems.append(f"{name}: it holds no examples")
    if scan.problems:
        raise InputError(shorten(scan.problems))
    return scan.examples


def read_checked(
    path: str | Path,
    check: Callable[[list[Example]], T],
    *,
    image_root: str | Path | None = None,
    limit: int | None = None,
    unique_ids: bool = False,
) -> T:
    """What `check` makes of a file's examples, if both it and the reader find them sound.

    Where the reader refuses some rows, `check` still sees the others, so that one broken image
    does not hide the prompts that are too long.

    Args:
        path: As in `read_examples`, and so are the rest.
        check: Encodes the examples, say; raises `InputError` for those it cannot take.
        image_root: Where relative image paths start.
        limit: Read only so many rows.
        unique_ids: Refuse an id that stands on two rows.

    Raises:
        InputError: Everything that the reader or `check` finds wrong, each with its line.
    """
    scan = scan_file(path, image_root, limit)
    problems = scan.complaints(unique_ids)
    try:
        if scan.examples:
            checked = check(scan.examples)
    except InputError as error:
        raise InputError(shorten([*problems, *error.problems])) from error
    if problems:
        raise InputError(shorten(problems))
    return checked


def check_file(
    path: str | Path, image_root: str | Path | None = None, *, unique_ids: bool = False
) -> list[str]:
    """Every problem of a data file with its line; empty when it is sound."""
    return scan_file(path, image_root).complaints(unique_ids)


_MORE = re.compile(r"and (\d+) more problems?")


def shorten(problems: Sequence[str], shown: int = SHOWN) -> list[str]:
    """The first problems and how many more there are, so that a terminal keeps its head.

    Lists that are shortened already may be part of it: what they left out is counted.
    """
    left_out = [_MORE.fullmatch(problem) for problem in problems]
    told = [problem for problem, tail in zip(problems, left_out, strict=True) if tail is None]
    more = sum(int(tail[1]) for tail in left_out if tail) + max(0, len(told) - shown)
    end = [f"and {more} more problem{'' if more == 1 else 's'}"] if more else []
    return told[:shown] + end


def scan_file(
    path: str | Path, image_root: str | Path | None = None, limit: int | None = None
) -> Scan:
    """The file's sound examples beside every problem of the others."""
    path, scan = Path(path), Scan()
    folder = path.parent if image_root is None else Path(image_root)
    if image_root is not None and not folder.is_dir():
        scan.problems.append(f"image folder {folder} does not exist")
        return scan
    text = _read_text(path, scan)
    if text is None:
        return scan
    first_seen: dict[str, str] = {}
    with collector_paused():
        for row in islice(_rows(text, path), limit):
            _add_row(scan, row, folder, first_seen)
    if not scan.examples and not scan.problems:
        scan.problems.append(f"{path}: it holds no examples")
    return scan


def _add_row(scan: Scan, row: Row, folder: Path, first_seen: dict[str, str]) -> None:
    if row.problem is not None:
        scan.problems.append(f"{row.source}: {row.problem}")
        return
    if not isinstance(row.value, dict):
        kind = type(row.value).__name__
        scan.problems.append(f"{row.source}: the row is a {kind}; wanted an object")
        return
    reader = Reader(folder)
    example = reader.example(row.value, row.fallback_id, row.source)
    scan.problems.extend(f"{row.source}: {problem}" for problem in reader.problems)
    if example is None:
        return
    scan.examples.append(example)
    before = first_seen.setdefault(example.id, row.source)
    if before != row.source:
        scan.repeats.append(f"{row.source}: id {example.id!r} is taken by {before}")


def _read_text(path: Path, scan: Scan) -> str | None:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        scan.problems.append(
            f"{path}: it is no UTF-8 text (byte {error.start}); wanted JSONL or a JSON array"
        )
    except OSError as error:
        scan.problems.append(f"data file {path} cannot be read: {error.strerror or error}")
    return None


def _rows(text: str, path: Path) -> Iterator[Row]:
    if text.lstrip().startswith("["):
        yield from _array_rows(text, path)
    else:
        yield from _line_rows(text, path)


def _line_rows(text: str, path: Path) -> Iterator[Row]:
    """JSONL: one object per line; blank lines are passed over but counted."""
    for number, line in enumerate(_lines(text), start=1):
        if not line.strip():
            continue
        source = f"{path}:{number}"
        try:
            yield Row(source, str(number), json.loads(line))
        except ValueError as error:
            yield Row(source, str(number), problem=f"broken JSON: {error}")


def _lines(text: str) -> Iterator[str]:
    """The lines one by one: a list of them would hold the file a second time."""
    start = 0
    while (stop := text.find("\n", start)) >= 0:
        yield text[start:stop]
        start = stop + 1
    yield text[start:]


def _array_rows(text: str, path: Path) -> Iterator[Row]:
    """A JSON array, decoded item by item so that each one's line is known."""
    decoder = json.JSONDecoder()
    place, line, counted = _skip(text, text.index("[") + 1), 1, 0
    number = 0
    while place < len(text) and text[place] != "]":
        number += 1
        line, counted = line + text.count("\n", counted, place), place
        source = f"{path}:{line} (item {number})"
        try:
            value, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            yield Row(f"{path}:{error.lineno}", str(number), problem=f"broken JSON: {error.msg}")
            return  # after a broken item nothing tells where the next begins
        yield Row(source, str(number), value)
        place = _skip(text, place)
        if text[place : place + 1] == ",":
            place = _skip(text, place + 1)
        elif text[place : place + 1] != "]":
            break
    if text[place : place + 1] != "]" or text[place + 1 :].strip():
        line += text.count("\n", counted, place)
        yield Row(f"{path}:{line}", str(number), problem="broken JSON: the array does not end well")


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place
