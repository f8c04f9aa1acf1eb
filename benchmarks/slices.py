"""Training slices of a fused tensor against the whole tensor, and against split projections.

A Phi-3 of 1024 wide with 6 layers: gate and up lie in one tensor. The variants take turns step by
step in one process, a step being forward, backward and AdamW.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch
from torch import nn

from benchmarks.timing import Timing
from narrowtune.anatomy import Anatomy
from narrowtune.training.optimisers import optimiser_for
from narrowtune.training.weights import TrainedWeights

ROWS, TOKENS, VOCABULARY, ROUNDS = 2, 256, 4096, 6


def fused_model() -> nn.Module:
    """Random weights of the real class."""
    from transformers import Phi3Config, Phi3ForCausalLM

    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=VOCABULARY,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=6,
        num_attention_heads=16,
        num_key_value_heads=4,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return Phi3ForCausalLM(config).train()


class SplitLinear(nn.Module):
    """Gate and up as two linear layers, side by side."""

    def __init__(self, fused: nn.Linear) -> None:
        super().__init__()
        gate, up = fused.weight.detach().chunk(2)
        self.gate, self.up = (nn.Linear(gate.shape[1], len(gate), bias=False) for _ in range(2))
        self.gate.weight, self.up.weight = nn.Parameter(gate.clone()), nn.Parameter(up.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.gate(x), self.up(x)], dim=-1)


def split_model() -> nn.Module:
    """The same weights with gate and up apart; gate alone requires a gradient."""
    model = fused_model()
    for layer in model.model.layers:
        layer.mlp.gate_up_proj = SplitLinear(layer.mlp.gate_up_proj)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = ".gate." in name
    return model


class Variant:
    """A model, what is trained in it, and its optimiser."""

    def __init__(self, model: nn.Module, named: Sequence[tuple[str, nn.Parameter]]) -> None:
        self.model, self.timing = model, Timing()
        self.weights = TrainedWeights(named)
        self.optimiser = optimiser_for(self.weights, "adamw", 1e-4, 0.0)
        self.state_bytes = 0

    def _state_bytes(self) -> int:
        """What gradients and moments really hold in memory."""
        tensors = [master.grad for master in self.weights.masters]
        tensors += [m for s in self.optimiser.state.values() for m in s.values() if m.ndim]
        return sum(t.untyped_storage().nbytes() for t in tensors if t is not None)

    def step(self, ids: torch.Tensor) -> float:
        """One optimiser step, timed; its loss."""
        wall, cpu = time.perf_counter(), time.process_time()
        loss = self.model(ids, labels=ids, use_cache=False).loss
        loss.backward()
        self.weights.collect()
        self.weights.clip(1.0)
        self.optimiser.step()
        self.state_bytes = self._state_bytes()
        self.optimiser.zero_grad(set_to_none=True)
        self.weights.write_back()
        self.timing.wall.append(time.perf_counter() - wall)
        self.timing.cpu.append(time.process_time() - cpu)
        return float(loss.detach())


def main() -> None:
    """Print seconds per step, ratios taken side by side, and bytes of gradient and moments."""
    variants = {}
    for name, term in (("whole tensor", "gate-up"), ("slice", "language.mlp.gate")):
        model = fused_model()
        variants[name] = Variant(model, Anatomy.of(model).select([term]).apply(model))
    split = split_model()
    trained = [(n, p) for n, p in split.named_parameters() if p.requires_grad]
    variants["split projections"] = Variant(split, trained)
    for turn in range(ROUNDS + 1):
        ids = torch.randint(3, VOCABULARY, (ROWS, TOKENS))
        losses = {name: variant.step(ids) for name, variant in variants.items()}
        spread = abs(losses["slice"] - losses["split projections"]) / losses["slice"]
        assert spread < 1e-5, f"slice and split compute different losses: {losses}"
        if not turn:  # the first round warms up
            for variant in variants.values():
                variant.timing = Timing()
    _print(variants)


def _print(variants: dict[str, Variant]) -> None:
    base = variants["split projections"].timing
    print(f"training gate of a fused gate_up_proj, {ROWS} x {TOKENS} tokens")
    print(f"{'variant':<18} {'wall s':>8} {'CPU s':>8} {'CPU / split':>12} {'state MiB':>10}")
    for name, variant in variants.items():
        timing, state = variant.timing, variant.state_bytes / 2**20
        ratio = statistics.median(a / b for a, b in zip(timing.cpu, base.cpu, strict=True))
        wall, cpu = statistics.median(timing.wall), statistics.median(timing.cpu)
        print(f"{name:<18} {wall:8.2f} {cpu:8.2f} {ratio:11.2f}x {state:10.0f}")


if __name__ == "__main__":
    main()
