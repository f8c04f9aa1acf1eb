"""The ledger sees every bit, buffers included, and nothing that did not change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from narrowtune.delta import Snapshot, changed, fingerprint, load_tensors, save_tensors
from narrowtune.delta.ledger import hash_tensor
from narrowtune.errors import InputError


class Small(nn.Module):
    """Two linears and a buffer that is never saved, as rotary tables are."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.b = nn.Linear(4, 2, dtype=torch.bfloat16)
        self.register_buffer("table", torch.arange(5.0), persistent=False)


@pytest.mark.parametrize("name", ["a.weight", "a.bias", "b.weight", "table"])
def test_one_changed_number_is_named(name: str) -> None:
    model = Small()
    before = fingerprint(model)
    assert len(before) == 5
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        tensors[name].view(-1)[-1] += 1
    assert changed(before, fingerprint(model)) == (name,)


def test_trained_tensors_are_left_out() -> None:
    snapshot = Snapshot.of(Small(), {"a.weight": None})
    assert "a.weight" in snapshot.whole and "a.weight" not in snapshot.frozen


def test_a_tensor_that_appears_or_vanishes_is_a_change() -> None:
    assert changed({"a": "1"}, {"a": "1", "b": "2"}) == ("b",)
    assert changed({"a": "1", "b": "2"}, {"a": "1"}) == ("b",)


@given(st.integers(0, 31), st.integers(0, 9))
def test_any_flipped_bit_changes_the_hash(bit: int, place: int) -> None:
    tensor = torch.linspace(-1, 1, 10)
    before = hash_tensor(tensor)
    bits = tensor.view(torch.int32)
    mask = torch.tensor(1 << bit if bit < 31 else -(1 << 31), dtype=torch.int64).to(torch.int32)
    bits[place] ^= mask
    assert hash_tensor(tensor) != before


def test_shape_and_dtype_count() -> None:
    zeros = torch.zeros(4)
    assert hash_tensor(zeros) != hash_tensor(zeros.view(2, 2))
    assert hash_tensor(zeros) != hash_tensor(zeros.to(torch.int32))
    assert hash_tensor(torch.tensor(0.0)) != hash_tensor(torch.tensor(-0.0))


def test_layout_in_memory_does_not_count() -> None:
    table = torch.arange(6.0).view(2, 3)
    assert hash_tensor(table.t()) == hash_tensor(table.t().contiguous())


def test_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    tensors = {"x": torch.randn(3, 2).to(torch.bfloat16), "y": torch.arange(3).t()}
    save_tensors(tmp_path / "deep" / "file.safetensors", tensors)
    again = load_tensors(tmp_path / "deep" / "file.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file.safetensors"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    save_tensors(path, {"x": torch.ones(100)})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"file\.safetensors can't be read"):
        load_tensors(path)
