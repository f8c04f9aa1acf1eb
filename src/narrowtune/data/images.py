"""Images by path: opened the same way wherever their size or their pixels are asked for."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)


def open_image(path: Path) -> Image.Image:
    """The image in RGB, turned upright as its EXIF says."""
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of the upright image, from its header alone."""
    return image_header(path)[0]


@lru_cache(maxsize=1 << 18)
def image_header(path: Path) -> tuple[tuple[int, int], str | None]:
    """The upright image's size (width, height), and its format's name as Pillow has it."""
    with Image.open(path) as image:
        width, height = image.size
        turned = image.getexif().get(ORIENTATION, 1) in SIDEWAYS
        return ((height, width) if turned else (width, height)), image.format


def image_problem(path: Path) -> str | None:
    """Why this image cannot be used; None when it decodes to its last byte."""
    try:
        stat = path.stat()
    except OSError:
        return f"image {path} does not exist"
    if not path.is_file():
        return f"image {path} is no file"
    return _decode_problem(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1 << 18)
def _decode_problem(path: Path, size: int, changed: int) -> str | None:
    """Decoded once per file and version; `size` and `changed` are the version."""
    try:
        with Image.open(path) as image:
            # A JPEG decoded at an eighth of its size still reads every byte, in half the time.
            image.draft("RGB", (1, 1))
            image.load()
    except UnidentifiedImageError:
        return f"image {path} is empty or no image ({size} bytes)"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"image {path} cannot be read: {error}"
    return None


def file_digest(path: Path) -> bytes:
    """SHA-256 of an image file's bytes, read once per version of the file."""
    stat = path.stat()
    return _file_digest(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1 << 18)
def _file_digest(path: Path, size: int, changed: int) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def pixel_digest(path: Path, *, drafted: bool = False) -> bytes:
    """SHA-256 of the upright RGB pixels and their size: the same picture, however it is stored.

    Args:
        path: The image; it is decoded once per version of the file.
        drafted: Decode a JPEG at an eighth of its size, a twentieth of the work. Such digests are
            comparable among JPEGs alone.
    """
    stat = path.stat()
    return _pixel_digest(path, drafted, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1 << 18)
def _pixel_digest(path: Path, drafted: bool, size: int, changed: int) -> bytes:
    with Image.open(path) as opened:
        if drafted:
            opened.draft("RGB", (1, 1))
        image = ImageOps.exif_transpose(opened).convert("RGB")
    return hashlib.sha256(b"%d %d " % image.size + image.tobytes()).digest()
