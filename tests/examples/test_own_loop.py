"""The examples of other people's loops run, on whole tensors and on slices."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from tiny_phi3 import tiny_phi3
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import narrowtune as nt
from narrowtune.delta import verify

EXAMPLES = Path(__file__).parents[2] / "examples" / "own_loop"
LOOPS = ["plain_pytorch", "hf_trainer", "trl_sft"]
SLICES = ["language.mlp.gate", "language.attn.q"]


@pytest.fixture
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """One of the examples, as a module."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.delitem(sys.modules, request.param, raising=False)
    return importlib.import_module(request.param)


@pytest.fixture(scope="module")
def phi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Phi-3, whose tensors are fused, and a tokenizer of words."""
    folder = tmp_path_factory.mktemp("phi3")
    sys.path.insert(0, str(EXAMPLES))
    words = sorted(
        {word for text in importlib.import_module("texts").TEXTS for word in text.split()}
    )
    sys.path.remove(str(EXAMPLES))
    vocabulary = {word: number for number, word in enumerate(["<unk>", "</s>", "<pad>", *words])}
    words_only = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words_only.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=words_only, unk_token="<unk>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)
    ends = {"pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 1}
    tiny_phi3(vocab_size=len(vocabulary), **ends).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("loop", LOOPS, indirect=True)
def test_whole_tensors_on_the_bundled_model(loop: ModuleType, tmp_path: Path) -> None:
    loop.main("pico-qwen", str(tmp_path))
    delta = nt.read_delta(tmp_path / "delta.safetensors")
    checks = verify(nt.load("pico-qwen", device="cpu"), delta)
    assert all(check.passed for check in checks)
    assert set(delta.header.terms) == {"language.mlp.gate", "language.mlp.up"}


@pytest.mark.parametrize("loop", LOOPS, indirect=True)
def test_slices_of_fused_tensors(loop: ModuleType, phi: Path, tmp_path: Path) -> None:
    loop.main(str(phi), str(tmp_path), SLICES)
    delta, base = nt.read_delta(tmp_path / "delta.safetensors"), nt.load(str(phi), device="cpu")
    assert {tuple(t.shape) for t in delta.tensors.values()} == {(48, 32), (32, 32)}
    before = dict(base.named_parameters())
    for name, values in delta.tensors.items():
        region = delta.header.region(name)
        assert region is not None
        assert (region.take(before[name]) != values).float().mean() > 0.9
    assert all(check.passed for check in verify(base, delta))


@pytest.mark.parametrize("loop", ["hf_trainer", "trl_sft"], indirect=True)
def test_a_trainers_checkpoint_is_plain(loop: ModuleType, phi: Path, tmp_path: Path) -> None:
    loop.main(str(phi), str(tmp_path), SLICES)
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    written, whole = (
        load_file(checkpoint / "model.safetensors"),
        load_file(phi / "model.safetensors"),
    )
    assert {n: t.shape for n, t in written.items()} == {n: t.shape for n, t in whole.items()}
    tuned = nt.load(str(phi), delta=tmp_path / "delta.safetensors", device="cpu").state_dict()
    assert all(torch.equal(tuned[name], tensor) for name, tensor in written.items())
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]
    moments = sum(entry["exp_avg"].numel() for entry in state.values())
    assert moments == nt.read_delta(tmp_path / "delta.safetensors").header.numel
    assert json.loads((checkpoint / "trainer_state.json").read_text())["global_step"] > 0
