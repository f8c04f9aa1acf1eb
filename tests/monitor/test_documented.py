"""The documented example runs as it stands; several processes stop at the same step."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from narrowtune import pico
from narrowtune.errors import NarrowTuneWarning

PAGE = Path(__file__).parents[2] / "docs" / "drift.md"


def test_the_documented_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for task in ("charts", "existence"):
        pico.write(tmp_path, task, "test", 4)
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    with pytest.warns(NarrowTuneWarning, match=r"with the weights of step \d+ put back"):
        exec(compile(program, "drift.md", "exec"), {})
    assert "beyond the budget at step" in capsys.readouterr().out


PROGRAM = """
import json, sys
from transformers import (
    AutoTokenizer, DataCollatorForLanguageModeling, GPT2Config, GPT2LMHeadModel, Trainer,
    TrainingArguments, set_seed,
)
import narrowtune as nt
tokenizer = AutoTokenizer.from_pretrained(nt.resolve("pico-qwen"))
set_seed(1)
sizes = {"n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 2}
model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes))
turns = [("user", "Which colour?"), ("assistant", "a warm red")]
texts = {"colours": [{"messages": [{"role": a, "content": b} for a, b in turns]}]}
arguments = TrainingArguments(
    sys.argv[1], learning_rate=5e-3, max_steps=20, per_device_train_batch_size=2, use_cpu=True,
    report_to=[], save_strategy="no", disable_tqdm=True, ddp_backend="gloo",
)
taught = [tokenizer(f"How many birds? {number}") for number in range(16)]
trainer = Trainer(model, arguments, DataCollatorForLanguageModeling(tokenizer, mlm=False), taught)
monitor = nt.DriftMonitor(tokenizer, texts, every=1, budget=1e-4, action="stop", write=True)
monitor.attach(trainer)
trainer.train()
rank = trainer.args.process_index
with open(f"{sys.argv[1]}/{rank}.json", "w") as file:
    json.dump([trainer.state.global_step, monitor.broken_at, len(monitor.readings)], file)
"""


@pytest.mark.slow
def test_processes_stop_together_and_one_writes(tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29519"]
    command = [sys.executable, *launcher, str(file), str(tmp_path / "out")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    one, other = (json.loads((tmp_path / "out" / f"{n}.json").read_text()) for n in (0, 1))
    assert one == other
    assert one[0] == one[1] < 20
    assert len((tmp_path / "out" / "drift.jsonl").read_text().splitlines()) == one[2]
