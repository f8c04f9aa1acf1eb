"""Fused models and, with the same weights, the same models with every part in a tensor of its own.

The split modules are written here, by hand, so that they share nothing with what is tested.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tiny_phi3 import TOKENS, tiny_phi3
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
)

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


class SplitLinear(nn.Module):
    """Some linear layers side by side: what a fused one computes."""

    def __init__(self, parts: dict[str, tuple[Tensor, Tensor | None]]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: _linear(*given) for name, given in parts.items()})

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts.values()], dim=-1)


class SplitExperts(nn.Module):
    """Mixtral's experts with the gates and the ups in a tensor each."""

    def __init__(self, experts: nn.Module) -> None:
        super().__init__()
        gate, up = experts.gate_up_proj.detach().chunk(2, dim=1)  # type: ignore[operator, union-attr]
        self.gate = nn.Parameter(gate.clone())
        self.up = nn.Parameter(up.clone())
        self.down_proj = nn.Parameter(experts.down_proj.detach().clone())  # type: ignore[operator]

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        output = torch.zeros_like(hidden)
        for expert in range(len(self.gate)):
            token, rank = (chosen == expert).nonzero(as_tuple=True)
            x = hidden[token]
            inner = F.silu(x @ self.gate[expert].T) * (x @ self.up[expert].T)
            share = weights[token, rank, None]
            output = output.index_add(0, token, share * (inner @ self.down_proj[expert].T))
        return output


@dataclass(frozen=True)
class Pair:
    """A fused model, its split twin, and under which name the twin has what a term trains."""

    fused: nn.Module
    split: nn.Module
    names: dict[str, str]

    def twins(self, terms: list[str]) -> list[nn.Parameter]:
        """The split model's parameters that these terms train."""
        ends = tuple(self.names[term] for term in terms)
        return [p for n, p in self.split.named_parameters() if any(end in n for end in ends)]


def phi3() -> Pair:
    """q, k, v of grouped queries in one tensor, gate and up in another."""
    fused = tiny_phi3()
    split = copy.deepcopy(fused)
    for layer in split.model.layers:
        gate, up = layer.mlp.gate_up_proj.weight.chunk(2)
        q, k, v = layer.self_attn.qkv_proj.weight.split((32, 16, 16))
        layer.mlp.gate_up_proj = SplitLinear({"gate": (gate, None), "up": (up, None)})
        qkv = {"q": (q, None), "k": (k, None), "v": (v, None)}
        layer.self_attn.qkv_proj = SplitLinear(qkv)
    return Pair(fused, split, _MLP | _ATTENTION)


def gpt2() -> Pair:
    """q, k, v in one Conv1D, which stores the transpose, with biases."""
    torch.manual_seed(0)
    fused = GPT2LMHeadModel(
        GPT2Config(n_embd=32, n_layer=2, n_head=4, initializer_range=0.2, **TOKENS)
    ).eval()
    with torch.no_grad():
        for name, parameter in fused.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    split = copy.deepcopy(fused)
    for block in split.transformer.h:
        columns = block.attn.c_attn.weight.chunk(3, dim=1)
        biases = block.attn.c_attn.bias.chunk(3)
        rows = [(weight.T, bias) for weight, bias in zip(columns, biases, strict=True)]
        block.attn.c_attn = SplitLinear(dict(zip("qkv", rows, strict=True)))
    return Pair(fused, split, _ATTENTION)


def mixtral() -> Pair:
    """Three-dimensional experts, gate and up in one tensor."""
    torch.manual_seed(0)
    config = MixtralConfig(
        **SIZES,
        **TOKENS,
        intermediate_size=48,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
    )
    fused = MixtralForCausalLM(config).eval()
    split = copy.deepcopy(fused)
    for layer in split.model.layers:
        layer.mlp.experts = SplitExperts(layer.mlp.experts)
    experts = {f"language.experts.{half}": f"experts.{half}" for half in ("gate", "up")}
    return Pair(fused, split, experts)


_MLP = {f"language.mlp.{half}": f"gate_up_proj.parts.{half}." for half in ("gate", "up")}
_ATTENTION = {f"language.attn.{part}": f".parts.{part}." for part in "qkv"}

PAIRS: dict[str, Callable[[], Pair]] = {"phi3": phi3, "gpt2": gpt2, "mixtral": mixtral}


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        made.weight.copy_(weight)
        if bias is not None:
            made.bias.copy_(bias)
    return made
