"""What frozen image encoders gave, kept: in memory, and in a folder where there is one.

Keys say all that the features depend on, so a store never has to judge what it holds: another
model's entry has another key. What cannot be kept is computed again; nothing here raises.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

GIB = 2**30
SUFFIX = ".features"
_DIGEST = hashlib.sha256().digest_size
_ALIGNED = 64  # bytes; what torch aligns its own memory to


@dataclass(frozen=True)
class Entry:
    """Tensors by name, on CPU, and what is told about them."""

    tensors: Mapping[str, Tensor]
    told: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def nowhere(_text: str) -> None:
    """Tells nobody."""


@dataclass
class FeatureStore:
    """Entries by key, in memory up to a limit, and in a folder beside it.

    Attributes:
        limit: Bytes that the tensors in memory may take.
        folder: Keeps entries beyond memory and beyond the process, where there is one.
    """

    limit: int
    folder: FeatureFolder | None = None
    _kept: dict[str, Entry] = field(default_factory=dict, repr=False)
    _bytes: int = 0
    _full: bool = False

    def get(self, key: str) -> Entry | None:
        """The entry, if it is kept and undamaged."""
        found = self._kept.get(key)
        if found is None and self.folder is not None:
            found = self.folder.get(key)
            if found is not None and not self._full:  # a copy: open maps are few to a process
                copies = {name: tensor.clone() for name, tensor in found.tensors.items()}
                self._remember(key, Entry(copies, found.told))
        return found

    def keep(self, key: str, tensors: Mapping[str, Tensor], told: str) -> None:
        """Keep these where there is room."""
        entry = Entry(tensors, told)
        self._remember(key, entry)
        if self.folder is not None:
            self.folder.put(key, entry)

    def takes(self, key: str) -> bool:
        """Whether it is worth computing for the store: it is there, or there is room for it."""
        if not self._full or (self.folder is not None and not self.folder.closed):
            return True
        return key in self._kept or (self.folder is not None and self.folder.has(key))

    def _remember(self, key: str, entry: Entry) -> None:
        if self._bytes + entry.nbytes > self.limit:
            self._full = True
        elif key not in self._kept:
            self._kept[key] = entry
            self._bytes += entry.nbytes


class FeatureFolder:
    """A file for each entry, read by mapping it into memory; no more is written than `limit`.

    A file appears under its name only when all of it is written, and begins with the SHA-256 of
    what follows, which is checked whenever it is read: what is damaged is taken away and computed
    again. Processes may share a folder.

    Args:
        path: The folder; made where it is missing.
        limit: Bytes that all files in it may take, of other models too.
        tell: Told once of each thing that keeps it from working.
    """

    def __init__(self, path: Path, limit: int, tell: Callable[[str], None] = nowhere) -> None:
        self.path, self.limit = path, limit
        self.closed = False
        self._tell, self._told = tell, set[str]()
        self._bytes = 0
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._bytes = sum(file.stat().st_size for file in path.rglob(f"*{SUFFIX}"))
            trial = path / f"trial-{os.getpid()}"
            trial.write_bytes(b"\0" * _ALIGNED)
            trial.unlink()
        except OSError as error:
            self._close(f"can't be written ({error}): image features are kept in memory alone")

    def meet(self, model: str) -> None:
        """Say so where the folder has features of other models, and none of this one.

        Args:
            model: What the keys of this one's entries begin with, before a slash.
        """
        if (self.path / model).exists() or not self.path.is_dir():
            return
        others = sorted(one.name for one in self.path.iterdir() if one.is_dir())
        if others:
            self._once(
                "others",
                f"holds image features of another model, processor or machine ({len(others)} such, "
                f"first {others[0]}): they are not used here",
            )

    def has(self, key: str) -> bool:
        """Whether a file of this key is there; it may be damaged."""
        return self._file(key).exists()

    def get(self, key: str) -> Entry | None:
        """The entry; None where there is none, or a damaged one."""
        file = self._file(key)
        try:
            with file.open("rb") as opened:
                # Copy on write: torch wants memory that it could write to; the file stays as it is.
                mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
            return _read(mapped, key)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._once("unread", f"can't be read ({error}): what it holds is computed again")
            return None
        except ValueError as error:  # so an empty file too
            self._once(
                "damaged",
                f"held a damaged file ({file.name}: {error}): what is damaged is taken away and "
                "computed again",
            )
            self._take_away(file)
            return None

    def put(self, key: str, entry: Entry) -> None:
        """Write an entry, unless there is no room or it can't be written."""
        if self.closed or self.has(key):
            return
        data, file = _written(key, entry), self._file(key)
        if self._bytes + len(data) > self.limit:
            self._close(
                f"has reached its limit of {self.limit / GIB:.3g} GiB: no more image features are "
                "written there; delete what is no longer needed, or raise --feature-cache-gib"
            )
            return
        half = file.with_name(f"{file.name}.{os.getpid()}.part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            half.write_bytes(data)
            half.replace(file)
        except OSError as error:
            self._take_away(half)
            self._close(f"can't be written ({error}): no more image features are kept there")
            return
        self._bytes += len(data)

    def _file(self, key: str) -> Path:
        return self.path / f"{key}{SUFFIX}"

    def _take_away(self, file: Path) -> None:
        try:
            size = file.stat().st_size
            file.unlink()
            self._bytes -= size if file.suffix == SUFFIX else 0
        except OSError:
            pass  # somebody else has, or nobody may

    def _close(self, why: str) -> None:
        self.closed = True
        self._once("closed", why)

    def _once(self, what: str, text: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._tell(f"note: {self.path} {text}")


def _written(key: str, entry: Entry) -> bytes:
    """A file: SHA-256 of the rest; length of the header; header (JSON); the tensors, aligned."""
    rows, pieces, end = [], [], 0
    for name, tensor in entry.tensors.items():
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        dtype = str(tensor.dtype).removeprefix("torch.")
        rows.append([name, dtype, list(tensor.shape), end])
        filled = flat + b"\0" * (-len(flat) % _ALIGNED)
        pieces.append(filled)
        end += len(filled)
    header = json.dumps({"key": key, "told": entry.told, "tensors": rows}).encode()
    header += b" " * (-(_DIGEST + 8 + len(header)) % _ALIGNED)
    rest = b"".join([len(header).to_bytes(8, "little"), header, *pieces])
    return hashlib.sha256(rest).digest() + rest


def _read(mapped: mmap.mmap, key: str) -> Entry:
    """The entry in a file, its tensors in the mapped memory.

    Raises:
        ValueError: It is torn or damaged, or of another key.
    """
    view = memoryview(mapped)
    if hashlib.sha256(view[_DIGEST:]).digest() != view[:_DIGEST]:
        raise ValueError("its checksum does not fit its bytes")
    length = int.from_bytes(view[_DIGEST : _DIGEST + 8], "little")
    start = _DIGEST + 8 + length
    header = json.loads(bytes(view[_DIGEST + 8 : start]))
    if header["key"] != key:
        raise ValueError("it is of another key")
    tensors = {
        name: _tensor(view, getattr(torch, dtype), shape, start + offset)
        for name, dtype, shape, offset in header["tensors"]
    }
    return Entry(tensors, header["told"])


def _tensor(view: memoryview, dtype: torch.dtype, shape: list[int], offset: int) -> Tensor:
    count = torch.Size(shape).numel()
    if not count:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(view, dtype=dtype, count=count, offset=offset).reshape(shape)
