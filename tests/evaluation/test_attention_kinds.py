"""Models whose classes know no fused attention load too, with what transformers gives them."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

import narrowtune as nt

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64}


@pytest.mark.parametrize(
    ("family", "used"), [("gemma2", "eager"), ("bloom", "eager"), ("llama", "sdpa")]
)
def test_it_loads(family: str, used: str, tmp_path: Path) -> None:
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES, **heads))
    model.save_pretrained(tmp_path)
    loaded = nt.load(str(tmp_path), device="cpu")
    assert loaded.config._attn_implementation == used
