"""Two experts where an MLP was: itself, frozen, and a trained copy, behind a router of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from narrowtune.errors import InputError
from narrowtune.record import Experts

COPY, ROUTER = "tuned", "router"
"""The names of what is added below an MLP."""

_NOISE = 0.02


def block_of(model: nn.Module, name: str) -> str | None:
    """The MLP that a parameter of one of its linear layers belongs to; None for any other.

    An MLP is a module of its own, of linear layers with nothing but an activation between.

    Args:
        model: The model, or its skeleton.
        name: The parameter's.
    """
    modules = dict(model.named_modules())
    layer, _, leaf = name.rpartition(".")
    path = layer.rpartition(".")[0]
    block = modules.get(path)
    if leaf not in ("weight", "bias") or type(modules.get(layer)) is not nn.Linear or not block:
        return None
    weighty = [one for one in block.children() if any(True for _ in one.parameters())]
    plain = len(weighty) > 1 and all(type(one) is nn.Linear for one in weighty)
    return path if plain and "Attention" not in type(block).__name__ else None


def width_of(model: nn.Module, path: str) -> int:
    """How wide the hidden states are that an MLP reads."""
    return _first(model.get_submodule(path)).in_features


def experts_of(model: nn.Module) -> Experts | None:
    """What was added to a model, None for a plain one."""
    suffix = f".{ROUTER}"
    routers = [(path, one) for path, one in model.named_modules() if isinstance(one, Router)]
    if not routers:
        return None
    blocks = tuple(path.removesuffix(suffix) for path, _ in routers)
    return Experts(blocks=blocks, top_k=routers[0][1].top_k, seed=routers[0][1].seed)


def add_experts(
    model: nn.Module, experts: Experts, trained: Sequence[str]
) -> list[tuple[str, nn.Parameter]]:
    """Put a copy and a router beside every MLP, in place; the model computes what it did.

    With `top_k` 2 a new router gives both experts one half. The copy shares what is not trained
    with the original, whose names and values stay.

    Args:
        model: The model, all of it frozen.
        experts: Where and how.
        trained: The parameters of the MLPs that are trained in the copies.

    Returns:
        The copies' trained parameters and the routers', which alone require gradients.

    Raises:
        InputError: A block is not there.
    """
    modules, wanted = dict(model.named_modules()), set(trained)
    if missing := [path for path in experts.blocks if path not in modules]:
        raise InputError(f"the model has no module {missing[0]} to put experts at")
    generator = torch.Generator().manual_seed(experts.seed)
    named: list[tuple[str, nn.Parameter]] = []
    for path in experts.blocks:
        block: Any = modules[path]
        copied, router = _copied(block, path, wanted), _router(block, experts, generator)
        block.add_module(COPY, copied)
        block.add_module(ROUTER, router)
        block.forward = MethodType(_mixed, block)
        here = [(name, one) for name, one in copied.named_parameters() if one.requires_grad]
        named += [(f"{path}.{COPY}.{name}", one) for name, one in here]
        named += [(f"{path}.{ROUTER}.{name}", one) for name, one in router.named_parameters()]
    return named


class Router(nn.Linear):
    """Probabilities of the original and of the copy, for every token: [..., 2].

    A router of one expert gives it weight 1 and passes the gradient straight through to its
    probability (arXiv 1308.3432), so the router learns though its choice is hard.
    """

    def __init__(self, width: int, experts: Experts) -> None:
        super().__init__(width, 2, bias=False)
        self.top_k, self.seed = experts.top_k, experts.seed

    def forward(self, hidden: Tensor) -> Tensor:
        """How much of each expert's output counts; in fp32."""
        chances = super().forward(hidden).float().softmax(dim=-1)
        if self.top_k == 2:
            return chances
        chosen = nn.functional.one_hot(chances.argmax(dim=-1), 2)
        return chosen + chosen * (chances - chances.detach())


def _mixed(block: Any, hidden: Tensor) -> Tensor:
    weights = block.router(hidden).to(hidden.dtype)
    own: Tensor = type(block).forward(block, hidden)
    other: Tensor = block.tuned(hidden)
    mixed: Tensor = weights[..., :1] * own + weights[..., 1:] * other
    return mixed


def _copied(block: nn.Module, path: str, trained: set[str]) -> nn.Module:
    shared = {
        id(one): one for name, one in block.named_parameters() if f"{path}.{name}" not in trained
    }
    copied = deepcopy(block, shared)  # what is in the memo is not copied
    for name, one in copied.named_parameters():
        one.requires_grad = f"{path}.{name}" in trained
    return copied


def _router(block: nn.Module, experts: Experts, generator: torch.Generator) -> Router:
    first = _first(block)
    router = Router(first.in_features, experts)
    with torch.no_grad():
        router.weight.zero_()
        if experts.top_k == 1:  # or every token would go to the original, and none be learned from
            router.weight.normal_(0.0, _NOISE, generator=generator)
    return router.to(first.weight.device, first.weight.dtype)


def _first(block: nn.Module) -> nn.Linear:
    return next(one for one in block.children() if isinstance(one, nn.Linear))
