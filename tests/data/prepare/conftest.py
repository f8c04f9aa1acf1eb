"""Fixtures of the preparation's tests: a server of files, and no waiting for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from file_host import Host, serving

from narrowtune.data.prepare import DATASETS, Manifest, build, download


@pytest.fixture
def host() -> Iterator[Host]:
    """A server on this machine."""
    with serving() as made:
        yield made


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between attempts, no proxy between the test and its server."""
    monkeypatch.setattr(download, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., Manifest]:
    """Prepares a data set from a folder into `tmp_path/out`, or where `out` says."""

    def run(
        name: str,
        release: Path | None,
        out: str = "out",
        seed: int = 0,
        limit: int | None = None,
    ) -> Manifest:
        told: list[tuple[str, int, int]] = []
        made = build(
            DATASETS[name],
            tmp_path / out,
            release,
            lambda *facts: told.append(facts),
            seed=seed,
            limit=limit,
        )
        assert all(done <= total or total == 0 for _, done, total in told)
        return made

    return run
