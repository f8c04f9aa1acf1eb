"""Tiny real models whose random weights are wide enough that no two tokens are nearly tied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from narrowtune.models.processing import Processing


@dataclass
class Tiny:
    model: Any
    processing: Processing


def with_wide_weights(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            fan_in = parameter[0].numel()
            parameter.data = torch.randn(parameter.shape, generator=draw) * (1.5 / fan_in**0.5)
    return model.eval()
