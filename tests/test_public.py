"""The public surface: what users import is there, and importing the package is cheap."""

from __future__ import annotations

import subprocess
import sys

import pytest

import narrowtune as nt

SURFACE = {
    "Anatomy", "Delta", "DriftMonitor", "Experiment", "InputError", "Ledger", "NarrowTuneError",
    "Observer", "Options", "Plan", "Record", "RunFailed", "Selection", "__version__", "apply_delta",
    "headline", "load", "load_config", "load_experiment", "parse_experiment", "plan",
    "read_delta", "read_record", "release", "resolve", "run", "write_html",
}  # fmt: skip


def test_the_surface_is_what_we_promised() -> None:
    assert set(nt.__all__) == SURFACE


@pytest.mark.parametrize("name", sorted(SURFACE))
def test_every_name_is_there(name: str) -> None:
    assert getattr(nt, name) is not None


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = nt.nonsense


def test_importing_takes_no_torch() -> None:
    program = "import sys, narrowtune; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
