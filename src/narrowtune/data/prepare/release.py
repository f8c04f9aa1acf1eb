"""What a public release is to the preparation: what it holds, where it is had, how it is read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from narrowtune.errors import InputError

SHOWN_FILES = 10
Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is (0: not known)."""


@dataclass(frozen=True)
class Item:
    """One row of a release, as it will be taught or asked.

    Attributes:
        id: Differs from row to row.
        image: The encoded image, or its file.
        prompt: The question and the form its answer is wanted in.
        answers: Accepted answers, the taught one first; repeats count where votes do.
        choices: What a scored answer may be; empty for open answers.
    """

    id: str
    image: bytes | Path
    prompt: str
    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class LeftOut:
    """A row of the release that becomes no example, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Rows:
    """One split of a release.

    Attributes:
        count: How many rows it holds.
        read: Those whose places, counted from 0, are asked for; in order.
    """

    count: int
    read: Callable[[Collection[int]], Iterable[Item | LeftOut]]


@dataclass(frozen=True)
class Source:
    """Where a release lies.

    Attributes:
        folder: Holds the release as it is published.
        origin: The address it was fetched from with its commit, or "a local folder".
        scratch: Where more of it may be downloaded to.
        progress: Told how far a long step is.
    """

    folder: Path
    origin: str
    scratch: Path
    progress: Progress


@dataclass(frozen=True)
class Dataset:
    """A data set that can be prepared.

    Attributes:
        name: What the user calls it.
        title: Its name and paper.
        homepage: Where its release is described.
        licence: What its publishers allow.
        metric: How its answers are judged.
        layout: The release's files, as told when one is missing.
        sizes: Rows that the published release holds, by our split's name.
        fetch: Puts the release into a folder; returns where it lies and its origin.
        open: The release's rows by our split's name, with the seed of its distractors.
    """

    name: str
    title: str
    homepage: str
    licence: str
    metric: str
    layout: str
    sizes: Mapping[str, int]
    fetch: Callable[[Path, Progress], tuple[Path, str]]
    open: Callable[[Source, int], Mapping[str, Rows]]


def require(folder: Path, names: Iterable[str], layout: str) -> None:
    """Refuse a release that lacks files.

    Raises:
        InputError: Listing what is missing, and what a whole release looks like.
    """
    missing = [name for name in names if not (folder / name).is_file()]
    if not missing:
        return
    shown = ", ".join(missing[:SHOWN_FILES])
    more = f" and {len(missing) - SHOWN_FILES} more" if len(missing) > SHOWN_FILES else ""
    raise InputError(f"{folder} lacks {shown}{more}; the release is laid out as {layout}")


def chosen(items: Iterable[Item | LeftOut], wanted: Collection[int]) -> Iterator[Item | LeftOut]:
    """Those of a split's rows whose places are wanted."""
    return (item for place, item in enumerate(items) if place in wanted)
