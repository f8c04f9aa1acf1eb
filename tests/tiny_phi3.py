"""A Phi-3 of a few thousand numbers: q, k, v lie in one tensor, gate and up in another."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import Phi3Config, Phi3ForCausalLM

TOKENS = {"vocab_size": 96, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def tiny_phi3(**changes: Any) -> nn.Module:
    """Random weights, the same at every call, in evaluation mode."""
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    model: nn.Module = Phi3ForCausalLM(Phi3Config(**sizes | TOKENS | changes))
    return model.eval()
