"""Two processes give what one gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from narrowtune.record import read_record

LAUNCHER = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29517"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "quantization", "recipe", "tolerance"),
    [
        ("float32", "none", "gate-up", 1e-4),
        ("float32", "nf4", "gate-up", 1e-4),
        ("float32", "none", "full", 1e-2),
        # slices; a share of text rows reaches none of them
        ("float32", "none", "vision.attn.q", 1e-3),
        ("bfloat16", "none", "gate-up", 5e-2),
    ],
)
def test_two_processes_equal_one(
    drawn: Path, tmp_path: Path, dtype: str, quantization: str, recipe: str, tolerance: float
) -> None:
    if quantization != "none":
        pytest.importorskip("bitsandbytes")
    _mix_in_text_rows(drawn / "counting" / "train.jsonl", drawn / "counting" / "mixed.jsonl")
    raw = {
        "model": {"id": "pico-qwen", "dtype": dtype, "quantization": quantization},
        "stages": [{"name": "counting", "train": "counting/mixed.jsonl"}],
        "held_out": [{"name": "existence", "test": "existence/test.jsonl", "metric": "yes_no"}],
        "arms": [{"name": recipe, "recipe": recipe}],
        # 15 rows over two processes: the shares differ in size, the last is idle at times.
        "training": {"batch_size": 15, "micro_batch_size": 5, "steps": 5, "learning_rate": 1e-4},
    }
    file = drawn / "processes.yaml"
    file.write_text(json.dumps(raw))
    records = []
    for name, launcher in (("one", []), ("two", LAUNCHER)):
        out = tmp_path / name
        command = [sys.executable, *launcher, "-m", "narrowtune", "run", str(file)]
        command += ["--out", str(out), "--device", "cpu", "--no-save-models"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
        records.append(read_record(out))
    one, two = records
    assert (one.environment["processes"], two.environment["processes"]) == (1, 2)
    losses = [[row.loss for row in record.losses] for record in records]
    norms = [[row.grad_norm for row in record.losses] for record in records]
    assert losses[1] == pytest.approx(losses[0], rel=tolerance)
    assert norms[1] == pytest.approx(norms[0], rel=tolerance * 3)
    assert two.data_order == one.data_order


def _mix_in_text_rows(images: Path, mixed: Path) -> None:
    """A file whose every third row has no image: a process may meet none in its share."""
    turns = [{"role": "user", "content": "1 + 1 = ?"}, {"role": "assistant", "content": "2"}]
    rows = images.read_text().splitlines()
    text = json.dumps({"messages": turns})
    mixed.write_text("\n".join(text if n % 3 else row for n, row in enumerate(rows)))
