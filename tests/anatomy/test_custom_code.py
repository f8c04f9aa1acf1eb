"""Code that comes with a model runs only when it is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import narrowtune as nt
from narrowtune.errors import InputError

CONFIGURATION = """
from transformers import LlamaConfig

class MineConfig(LlamaConfig):
    model_type = "mine"
"""
MODELING = """
from transformers import LlamaForCausalLM
from .configuration_mine import MineConfig

class MineForCausalLM(LlamaForCausalLM):
    config_class = MineConfig
"""
VALUES = {
    "model_type": "mine",
    "architectures": ["MineForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_mine.MineConfig",
        "AutoModelForCausalLM": "modeling_mine.MineForCausalLM",
    },
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 32,
}


@pytest.fixture
def custom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder whose config names classes that lie beside it."""
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "configuration_mine.py").write_text(CONFIGURATION)
    (folder / "modeling_mine.py").write_text(MODELING)
    (folder / "config.json").write_text(json.dumps(VALUES))
    return str(folder)


def test_it_does_not_run_unasked(custom: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only --trust-remote-code runs"):
        nt.load_config(custom)
    assert not (tmp_path / "modules" / "transformers_modules" / "mine").exists()


def test_asked_for_it_is_named_like_any_other(custom: str) -> None:
    anatomy = nt.Anatomy.of(nt.load_config(custom, trust_remote_code=True))
    assert (anatomy.family, anatomy.class_name) == ("mine", "MineForCausalLM")
    assert anatomy.select(["gate-up"]).trained_numel == 2 * 2 * 16 * 24


def test_its_weights_load_too(custom: str) -> None:
    config = nt.load_config(custom, trust_remote_code=True)
    from narrowtune.models.skeleton import model_class

    torch.manual_seed(0)
    model_class(config)(config).save_pretrained(custom)
    loaded = nt.load(custom, trust_remote_code=True, device="cpu")
    assert type(loaded).__name__ == "MineForCausalLM"
    with pytest.raises(InputError, match="only --trust-remote-code runs"):
        nt.load(custom, device="cpu")
