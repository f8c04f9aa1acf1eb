"""What several rooms' tests share: drawn data on disk and the bundled models, loaded once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from narrowtune import pico
from narrowtune.data import read_examples
from narrowtune.data.encoding import Encoded, encode_all
from narrowtune.models.loading import load_model
from narrowtune.models.processing import Processing, load_processing

torch.set_num_threads(1)  # tiny models: a second thread costs more than it brings


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 48 training and 12 test rows of a few pico tasks."""
    folder = tmp_path_factory.mktemp("pico")
    for task in ("counting", "reading", "captions", "existence"):
        pico.write(folder, task, "train", 48)
        pico.write(folder, task, "test", 12)
    return folder


@pytest.fixture(scope="session")
def processing() -> Processing:
    """The processor of `pico-qwen`."""
    return load_processing("pico-qwen")


@pytest.fixture
def pico_model() -> Callable[[], nn.Module]:
    """Makes a fresh `pico-qwen` with its weights."""
    return lambda: load_model("pico-qwen", device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def counting(drawn: Path, processing: Processing) -> list[Encoded]:
    """The encoded training rows of the counting task."""
    return encode_all(read_examples(drawn / "counting" / "train.jsonl"), processing)
