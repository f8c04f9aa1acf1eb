"""Families whose files name weights otherwise than the model does: transformers converts both ways.

Mixtral's files keep every expert's w1, w2, w3; the model has three-dimensional tensors.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_phi3 import TOKENS
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM

import narrowtune as nt
from narrowtune.delta import changed, fingerprint, verify
from narrowtune.models.loading import save_model


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A tiny Mixtral as `save_pretrained` writes it."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    experts = {"intermediate_size": 48, "num_local_experts": 4, "num_key_value_heads": 2}
    MixtralForCausalLM(MixtralConfig(**sizes, **experts, **TOKENS)).save_pretrained(tmp_path / "m")
    return str(tmp_path / "m")


def taught(folder: str) -> tuple[nn.Module, nt.Delta]:
    model = nt.load(folder, device="cpu")
    selection = nt.Anatomy.of(model).select(["language.experts.up"])
    ledger = nt.Ledger(model, selection)
    with torch.no_grad():
        for _, parameter in selection.apply(model):
            parameter.add_(torch.randn_like(parameter))
    nt.release(model)
    return model, nt.Delta.of(ledger, base=folder)


def test_a_delta_of_experts_survives_the_conversion(folder: str, tmp_path: Path) -> None:
    tuned, delta = taught(folder)
    assert {t.shape for t in delta.tensors.values()} == {(4, 48, 32)}
    delta.save(tmp_path / "d.safetensors")
    applied = nt.load(folder, delta=tmp_path / "d.safetensors", device="cpu")
    assert not changed(fingerprint(applied), fingerprint(tuned))
    save_model(applied, folder, tmp_path / "out")
    again = MixtralForCausalLM.from_pretrained(tmp_path / "out")
    assert not changed(fingerprint(again), fingerprint(tuned))
    assert all(check.passed for check in verify(nt.load(folder, device="cpu"), delta, again))


def test_files_written_while_slices_train_are_converted_too(folder: str, tmp_path: Path) -> None:
    model = nt.load(folder, device="cpu")
    nt.Anatomy.of(model).select(["language.experts.up"]).apply(model)
    model.save_pretrained(tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    before = load_file(Path(folder) / "model.safetensors")
    assert any("experts.0.w1" in name for name in before)
    assert written.keys() == before.keys()
    assert all(torch.equal(written[name], before[name]) for name in before)
