"""A release made into our files: images by their hash, JSONL, what was left out, the manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from narrowtune.data.formats import check_file, shorten
from narrowtune.data.images import image_problem, image_size, pixel_digest
from narrowtune.data.prepare.download import digest
from narrowtune.data.prepare.manifest import Manifest, begin, of_images
from narrowtune.data.prepare.release import Dataset, Item, LeftOut, Progress, Rows, Source
from narrowtune.errors import InputError
from narrowtune.record.store import write_text_atomically

LEFT_OUT = "left-out.jsonl"
RELEASE = "release"
# Test first: what it shows is then kept out of training.
SPLITS = ("test", "train")
_SUFFIXES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"RIFF": ".webp"}


def build(
    dataset: Dataset,
    out: Path,
    folder: Path | None,
    progress: Progress,
    *,
    seed: int,
    limit: int | None,
) -> Manifest:
    """Make `train.jsonl`, `test.jsonl` and their images of a release.

    Args:
        dataset: What to prepare.
        out: The folder for it: empty, new, or one where the same was broken off.
        folder: The release, or None to fetch it.
        progress: Told how far it is.
        seed: Of the distractors, and of the sample that a limit takes.
        limit: Rows of each split, drawn from all of it.

    Raises:
        InputError: Whatever keeps the release from being fetched, read or written.
    """
    manifest = begin(out, dataset.name, {"seed": seed, "limit": limit})
    if manifest.complete and not manifest.damaged(out):
        return manifest
    if folder is not None and not folder.is_dir():
        raise InputError(f"no folder {folder}; wanted the release as {dataset.layout}")
    source = _source(dataset, out, folder, progress)
    splits = dataset.open(source, seed)
    writer = _Writer(out, progress)
    for split in SPLITS:
        writer.split(split, splits[split], _sample(dataset.name, split, splits[split], seed, limit))
    manifest = _finished(manifest, dataset, source, splits, writer)
    manifest.write(out)
    return manifest


def _source(dataset: Dataset, out: Path, folder: Path | None, progress: Progress) -> Source:
    scratch = out / RELEASE
    if folder is not None:
        return Source(folder, "a local folder", scratch, progress)
    where, origin = dataset.fetch(scratch, progress)
    return Source(where, origin, scratch, progress)


def _sample(name: str, split: str, rows: Rows, seed: int, limit: int | None) -> frozenset[int]:
    """The places that a limit leaves; releases are often sorted, so not simply the first."""
    if limit is None or limit >= rows.count:
        return frozenset(range(rows.count))
    return frozenset(Random(f"{name} {split} {seed}").sample(range(rows.count), limit))


class _Writer:
    """Writes splits one after the other and remembers what the test shows."""

    def __init__(self, out: Path, progress: Progress) -> None:
        self.out, self._progress = out, progress
        self.rows: dict[str, int] = {}
        self.left_out: dict[str, list[LeftOut]] = {}
        self._shown: dict[str, _Shown] = {}

    def split(self, split: str, rows: Rows, wanted: frozenset[int]) -> None:
        """Write one split's JSONL.

        Raises:
            InputError: If no row is left, or what was written is not sound.
        """
        self.left_out[split] = []
        self._shown[split] = _Shown()
        path = self.out / f"{split}.jsonl"
        lines = list(self._lines(split, rows.read(wanted), len(wanted)))
        if not lines:
            reasons = [f"{gone.id}: {gone.reason}" for gone in self.left_out[split]]
            raise InputError(
                shorten([f"the {split} split holds no row that can be used", *reasons])
            )
        write_text_atomically(path, "\n".join(lines) + "\n")
        if problems := check_file(path, unique_ids=True):
            raise InputError(shorten(problems))
        self.rows[split] = len(lines)

    def _lines(self, split: str, items: Iterable[Item | LeftOut], total: int) -> Iterator[str]:
        for done, item in enumerate(items, start=1):
            kept = item if isinstance(item, LeftOut) else self._stored(split, item)
            if isinstance(kept, LeftOut):
                self.left_out[split].append(kept)
            else:
                yield json.dumps(kept, ensure_ascii=False)
            self._progress(f"rows of {split}", done, total)

    def _stored(self, split: str, item: Item) -> dict[str, Any] | LeftOut:
        """The row with its image in place, or why it cannot be used."""
        path = _store(self.out, item.image)
        if (problem := image_problem(self.out / path)) is not None:
            (self.out / path).unlink()
            return LeftOut(item.id, problem.replace(f"{self.out}/", ""))
        if split == "train" and self._shown["test"].holds(self.out / path):
            return LeftOut(item.id, "the test shows its image")
        self._shown[split].add(self.out / path)
        return _row(item, path)


class _Shown:
    """Pictures by their pixels; only those of one size are decoded to compare them."""

    def __init__(self) -> None:
        self._files: dict[tuple[int, int], set[Path]] = {}
        self._pixels: dict[tuple[int, int], set[bytes]] = {}

    def add(self, path: Path) -> None:
        self._files.setdefault(image_size(path), set()).add(path)

    def holds(self, path: Path) -> bool:
        """Whether a picture of the same pixels was added; none may be added after this is asked."""
        size = image_size(path)
        if size not in self._files:
            return False
        if size not in self._pixels:
            self._pixels[size] = {pixel_digest(file) for file in self._files[size]}
        return pixel_digest(path) in self._pixels[size]


def _store(out: Path, image: bytes | Path) -> str:
    """The image's path below `out`, after it was put there unless it already is."""
    data = image.read_bytes() if isinstance(image, Path) else image
    value = hashlib.sha256(data).hexdigest()
    suffix = next((end for start, end in _SUFFIXES.items() if data.startswith(start)), ".image")
    name = f"images/{value[:2]}/{value}{suffix}"
    path = out / name
    if not path.is_file() or digest(path) != value:
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_name(path.name + ".part")
        half.write_bytes(data)
        half.replace(path)
    return name


def _row(item: Item, image: str) -> dict[str, Any]:
    """The row in the `messages` format of docs/data.md."""
    question = [{"type": "image", "image": image}, {"type": "text", "text": item.prompt}]
    row: dict[str, Any] = {
        "id": item.id,
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": item.answers[0]},
        ],
    }
    if len(item.answers) > 1:
        row["references"] = list(item.answers)
    if item.choices:
        row["choices"] = list(item.choices)
    return row


def _finished(
    manifest: Manifest,
    dataset: Dataset,
    source: Source,
    splits: Mapping[str, Rows],
    writer: _Writer,
) -> Manifest:
    """The manifest filled in, after the list of what was left out is written."""
    gone = [
        json.dumps({"split": split, "id": row.id, "reason": row.reason}, ensure_ascii=False)
        for split, rows in writer.left_out.items()
        for row in rows
    ]
    write_text_atomically(writer.out / LEFT_OUT, "".join(f"{line}\n" for line in gone))
    names = [*(f"{split}.jsonl" for split in SPLITS), LEFT_OUT]
    return Manifest(
        dataset=dataset.name,
        parameters=manifest.parameters,
        complete=True,
        title=dataset.title,
        homepage=dataset.homepage,
        licence=dataset.licence,
        metric=dataset.metric,
        origin=source.origin,
        rows=writer.rows,
        left_out={split: len(rows) for split, rows in writer.left_out.items()},
        files={name: digest(writer.out / name) for name in names},
        images={name: of_images(writer.out / name) for name in names if name != LEFT_OUT},
        notes=_notes(dataset, splits, writer),
    )


def _notes(dataset: Dataset, splits: Mapping[str, Rows], writer: _Writer) -> list[str]:
    """Where this is not the whole published data set."""
    notes = [
        f"the release's {split} split has {splits[split].count} rows; published are {size}"
        for split, size in dataset.sizes.items()
        if splits[split].count != size
    ]
    notes += [
        f"{len(rows)} rows of the {split} split were left out; {LEFT_OUT} says why"
        for split, rows in writer.left_out.items()
        if rows
    ]
    return notes
