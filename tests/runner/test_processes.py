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
def test_two_processes_equal_one(drawn: Path, tmp_path: Path) -> None:
    raw = {
        "model": {"id": "pico-qwen", "dtype": "float32"},
        "stages": [{"name": "counting", "train": "counting/train.jsonl"}],
        "held_out": [{"name": "existence", "test": "existence/test.jsonl", "metric": "yes_no"}],
        "arms": [{"name": "gate-up", "recipe": "gate-up"}],
        # 15 rows over two processes: the shares differ in size, the last is idle at times.
        "training": {"batch_size": 15, "micro_batch_size": 5, "steps": 5, "learning_rate": 1e-3},
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
    assert [r.loss for r in two.losses] == pytest.approx([r.loss for r in one.losses], rel=1e-4)
    norms = [[r.grad_norm for r in record.losses] for record in records]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)
    assert two.data_order == one.data_order
