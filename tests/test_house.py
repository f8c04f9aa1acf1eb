"""The house's own laws: sizes, and what may be imported behind which command."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path
    for folder in ("src", "tests", "pretraining", "examples", "benchmarks", "docs")
    for path in (ROOT / folder).rglob("*.py")
)
MAX_FILE, MAX_FUNCTION = 400, 60


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_FILE, f"{path} has more than {MAX_FILE} lines"
    too_long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION
    }
    assert not too_long, f"functions of more than {MAX_FUNCTION} lines in {path}: {too_long}"


def test_no_utils() -> None:
    names = {path.stem for path in SOURCES}
    assert not names & {"utils", "common", "core", "helpers", "misc"}


LIGHT = [
    ["--help"],
    ["run", "--help"],
    ["train", "--help"],
    ["demo", "--help"],
    ["inspect", "--help"],
    ["select", "--help"],
    ["eval", "--help"],
    ["report", "--help"],
    ["frontier", "--help"],
    ["data", "check", "--help"],
    ["data", "prepare", "--help"],
]


def imported_by(arguments: list[str]) -> set[str]:
    """Top-level packages loaded by a command line, in a process of its own."""
    program = (
        "import sys\nfrom narrowtune.cli import app\n"
        f"try: app({arguments!r}, prog_name='narrowtune')\n"
        "except SystemExit: pass\n"
        "print('LOADED', *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.rpartition("LOADED")[2].split())


@pytest.mark.parametrize("arguments", LIGHT, ids=" ".join)
def test_no_torch_behind_help(arguments: list[str]) -> None:
    assert not imported_by(arguments) & {"torch", "transformers", "accelerate"}


def test_no_torch_behind_data_check(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    turns = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
    file.write_text(json.dumps({"messages": turns}) + "\n")
    assert not imported_by(["data", "check", str(file)]) & {"torch", "transformers"}
