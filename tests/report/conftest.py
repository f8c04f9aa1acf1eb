"""The made-up run, on disk, once for all tests of the report."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from made_up_run import write_run

from narrowtune.record import Record


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run with predictions."""
    folder = tmp_path_factory.mktemp("run")
    write_run(folder, n=60)
    return folder


@pytest.fixture
def record(run_folder: Path) -> Record:
    """Its record."""
    from narrowtune.record import read_record

    return read_record(run_folder)
