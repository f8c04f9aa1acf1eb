"""What a machine is told about the dtype it computes in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import narrowtune as nt
from narrowtune.engine import cpu, cpu_has_bfloat16
from narrowtune.runner import Observer, Options
from narrowtune.runner.environment import dtype_notes

Run = Callable[..., tuple[int, str, str]]
SLOWER = "several times slower than float32"


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    """The answer is kept for a process; here every test has a CPU of its own."""
    cpu_has_bfloat16.cache_clear()
    yield
    cpu_has_bfloat16.cache_clear()


@pytest.fixture
def with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Makes this machine's only device a CPU that has the instructions, or has not."""

    def have(native: bool) -> None:
        known = {"avx2": True, "avx512_bf16": native}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    return have


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16", "bf16"])
def test_one_kind_of_instruction_is_enough(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    known = {"avx2": True, name: False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert not cpu_has_bfloat16()
    cpu_has_bfloat16.cache_clear()
    known[name] = True
    assert cpu_has_bfloat16()


@pytest.mark.parametrize(("slower", "native"), [(0.6, True), (7.0, False)])
def test_an_older_pytorch_is_asked_otherwise(
    monkeypatch: pytest.MonkeyPatch, slower: float, native: bool
) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    seconds = {torch.float32: 1.0, torch.bfloat16: slower}
    monkeypatch.setattr(cpu, "_seconds", seconds.__getitem__)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert cpu_has_bfloat16() == native
    cpu_has_bfloat16.cache_clear()
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert cpu_has_bfloat16()


def test_both_dtypes_can_be_timed() -> None:
    assert all(cpu._seconds(dtype) > 0 for dtype in (torch.float32, torch.bfloat16))


@pytest.mark.parametrize("native", [True, False])
def test_doctor_tells(narrowtune: Run, with_bfloat16: Callable[[bool], None], native: bool) -> None:
    with_bfloat16(native)
    code, printed, _ = narrowtune("doctor", "--json")
    facts = json.loads(printed)
    assert (code, facts["cpu_bfloat16"]) == (0, native)
    assert ("set model.dtype to bfloat16 for speed" in facts["dtype_reason"]) == native
    assert ("slower here" in facts["dtype_reason"]) != native


@pytest.mark.parametrize("native", [True, False])
def test_plan_and_run_tell(
    narrowtune: Run,
    with_bfloat16: Callable[[bool], None],
    drawn: Path,
    tmp_path: Path,
    native: bool,
) -> None:
    with_bfloat16(native)
    raw: dict[str, Any] = {
        "model": {"id": "pico-qwen", "dtype": "bfloat16"},
        "stages": [{"name": "counting", "train": "counting/train.jsonl", "train_limit": 4}],
        "arms": [{"name": "down", "recipe": "down"}],
        "training": {"steps": 1, "batch_size": 2},
        "seeds": [1, 2],
    }
    file = drawn / "dtype.yaml"
    file.write_text(json.dumps(raw))  # JSON is YAML
    for more in ([], ["--json"]):
        code, printed, err = narrowtune("plan", file, *more)
        assert code == 0
        assert (SLOWER in err) != native and SLOWER not in printed
    assert SLOWER not in narrowtune("plan", file, "-o", "model.dtype=float32")[2]

    class Notes(Observer):
        told = ""

        def note(self, text: str) -> None:
            self.told += text

    notes, options = Notes(), Options("cpu", save_models=False)
    record = nt.run(
        nt.plan(nt.parse_experiment(raw), drawn), tmp_path, options=options, observer=notes
    )
    assert notes.told.count(SLOWER) == (0 if native else 1)  # once, however many replicates
    assert record.environment["cpu_bfloat16"] == native


def test_an_accelerator_has_no_such_note(with_bfloat16: Callable[[bool], None]) -> None:
    with_bfloat16(False)
    assert dtype_notes("bfloat16", "cpu")
    assert not dtype_notes("bfloat16", "cuda:0") and not dtype_notes("auto", "cpu")
