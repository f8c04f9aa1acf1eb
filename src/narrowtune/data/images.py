"""Images by path: opened the same way wherever their size or their pixels are asked for."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)


def open_image(path: Path) -> Image.Image:
    """The image in RGB, turned upright as its EXIF says."""
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


@lru_cache(maxsize=1 << 18)
def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of the upright image, from its header alone."""
    with Image.open(path) as image:
        width, height = image.size
        turned = image.getexif().get(ORIENTATION, 1) in SIDEWAYS
    return (height, width) if turned else (width, height)


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
