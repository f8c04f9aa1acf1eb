"""Images by path: opened the same way wherever their size or their pixels are asked for."""

from __future__ import annotations

import hashlib
import stat
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

from narrowtune.errors import InputError

ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)


def open_image(path: Path) -> Image.Image:
    """The image in RGB, turned upright as its EXIF says."""
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


class Look(NamedTuple):
    """What one opening of an image file tells: all of it is decoded, none of it is kept.

    Attributes:
        problem: Why it cannot be used; None when it decodes to its last byte.
        size: (width, height) of the upright image; (0, 0) where it has none.
        kind: Its format's name as Pillow has it.
    """

    problem: str | None
    size: tuple[int, int] = (0, 0)
    kind: str | None = None


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of the upright image."""
    return image_header(path)[0]


def image_header(path: Path) -> tuple[tuple[int, int], str | None]:
    """The upright image's size (width, height), and its format's name as Pillow has it.

    Raises:
        InputError: It is no image that can be used.
    """
    look = _look_at(path)
    if look.problem is not None:
        raise InputError(look.problem)
    return look.size, look.kind


def image_problem(path: Path) -> str | None:
    """Why this image cannot be used; None when it decodes to its last byte."""
    return _look_at(path).problem


def _look_at(path: Path) -> Look:
    try:
        seen = path.stat()
    except OSError:
        return Look(f"image {path} does not exist")
    if not stat.S_ISREG(seen.st_mode):
        return Look(f"image {path} is no file")
    return _look(path, seen.st_size, seen.st_mtime_ns)


@lru_cache(maxsize=1 << 18)
def _look(path: Path, size: int, changed: int) -> Look:
    """Once per file and version; `size` and `changed` are the version."""
    try:
        with Image.open(path) as image:
            (width, height), kind = image.size, image.format
            # A JPEG decoded at an eighth of its size still reads every byte, in half the time.
            image.draft("RGB", (1, 1))
            image.load()
            # Asked now, a TIFF, whose size is upright already, no longer says that it is turned.
            turned = image.getexif().get(ORIENTATION, 1) in SIDEWAYS
    except UnidentifiedImageError:
        return Look(f"image {path} is empty or no image ({size} bytes)")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return Look(f"image {path} cannot be read: {error}")
    return Look(None, (height, width) if turned else (width, height), kind)


def file_digest(path: Path) -> bytes:
    """SHA-256 of a file's bytes, read once per version of the file."""
    seen = path.stat()
    return _file_digest(path, seen.st_size, seen.st_mtime_ns)


@lru_cache(maxsize=1 << 18)
def _file_digest(path: Path, size: int, changed: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def pixel_digest(path: Path, *, drafted: bool = False) -> bytes:
    """SHA-256 of the upright RGB pixels and their size: the same picture, however it is stored.

    Args:
        path: The image; it is decoded once per version of the file.
        drafted: Decode a JPEG at an eighth of its size, a twentieth of the work. Such digests are
            comparable among JPEGs alone.
    """
    seen = path.stat()
    return _pixel_digest(path, drafted, seen.st_size, seen.st_mtime_ns)


@lru_cache(maxsize=1 << 18)
def _pixel_digest(path: Path, drafted: bool, size: int, changed: int) -> bytes:
    with Image.open(path) as opened:
        if drafted:
            opened.draft("RGB", (1, 1))
        image = ImageOps.exif_transpose(opened).convert("RGB")
    return hashlib.sha256(b"%d %d " % image.size + image.tobytes()).digest()
