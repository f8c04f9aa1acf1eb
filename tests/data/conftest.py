"""Fixtures of the data room: loaded processings of tiny families, and images on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tiny_processors import write_family

from narrowtune.models.processing import Processing, load_processing


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Processing]:
    """The processing of a tiny model folder, by family name; each is loaded once."""
    loaded: dict[str, Processing] = {}

    def get(name: str) -> Processing:
        if name not in loaded:
            folder = write_family(tmp_path_factory.mktemp(name), name)
            loaded[name] = load_processing(str(folder))
        return loaded[name]

    return get


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small image that is not plain, and says where."""

    def make(name: str = "a.png", size: tuple[int, int] = (84, 84), seed: int = 0) -> Path:
        image = Image.linear_gradient("L").resize(size).rotate(37 * seed).convert("RGB")
        image.putpixel((0, 0), (255, seed % 256, 0))
        path = tmp_path / name
        image.save(path)
        return path

    return make
