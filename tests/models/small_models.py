"""Small drawn language models of real classes, wide enough that their graphs keep something."""

from __future__ import annotations

import torch
from torch import nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)

WORDS, INNER, LAYERS = 96, 96, 2
_SIZES = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": INNER,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


def llama(*, tied: bool = True, layers: int = LAYERS) -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(**_SIZES, num_hidden_layers=layers, tie_word_embeddings=tied)
    return LlamaForCausalLM(config)


def gemma() -> nn.Module:
    """Scales what it looks up, by a class of its own; its activation is gelu by tanh."""
    torch.manual_seed(0)
    return Gemma2ForCausalLM(Gemma2Config(**_SIZES, num_hidden_layers=LAYERS, head_dim=8))


def gpt2(*, dropout: float = 0.1) -> nn.Module:
    """Its activation is written out in products."""
    torch.manual_seed(0)
    drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    config = GPT2Config(vocab_size=WORDS, n_embd=32, n_layer=LAYERS, n_head=4, **drops)
    return GPT2LMHeadModel(config)


def phi3() -> nn.Module:
    """Gate and up are halves of one product."""
    torch.manual_seed(0)
    return Phi3ForCausalLM(Phi3Config(**_SIZES, num_hidden_layers=LAYERS))


def mixtral() -> nn.Module:
    """Experts in the MLP's place."""
    torch.manual_seed(0)
    config = MixtralConfig(**_SIZES, num_hidden_layers=LAYERS, num_local_experts=4)
    return MixtralForCausalLM(config)
