"""A model folder that was cut short is one message, whichever of its files it was."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from narrowtune.cli import main
from narrowtune.models.skeleton import BUNDLED


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("cut", ["truncated", "missing"])
def test_a_damaged_folder_is_one_message(
    name: str,
    cut: str,
    drawn: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(BUNDLED["pico-qwen"], folder)
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if cut == "truncated":
        (folder / name).write_bytes(content[: len(content) // 2])
    task = f"{drawn}/existence/test.jsonl:yes_no"
    monkeypatch.setattr(sys, "argv", ["narrowtune", "eval", str(folder), "--task", task])
    with pytest.raises(SystemExit) as ended:
        main()
    message = capsys.readouterr().err
    assert ended.value.code == 1
    assert str(folder) in message and "Traceback" not in message
