"""The model that benchmarks measure: its products, not Python, take the time."""

from __future__ import annotations

import torch
from torch import nn


def qwen2(vocabulary: int, *, tied: bool) -> nn.Module:
    """A Qwen2 of 512 wide and 8 layers with drawn weights."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    return Qwen2ForCausalLM(config)
