"""A command line run in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from narrowtune.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def narrowtune(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in this process; gives exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["narrowtune", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run
