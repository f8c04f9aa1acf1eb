"""The last decoder layer only where its output is read.

Logits are wanted at few positions, and behind the last attention no position reads another: there,
queries, what becomes of the attention's result, and the MLP are needed at those positions alone.
Keys and values are needed everywhere. Loss and gradients stay the same but for rounding; what is
spared is nearly 1/L of the products of a language tower of L layers, forward and backward.

Hooks hand each of these modules the chosen rows and lay its results back among zeros, so no model
class needs a case of its own: a query of zeros attends to something finite that nobody reads.
Dropout inside these modules draws fewer numbers than before, as ever when shapes change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from narrowtune.anatomy import Anatomy, TensorInfo
from narrowtune.models.generation import evaluating
from narrowtune.models.supervised import supervised_logits

# All that a layer of attention + MLP with residuals may hold, each acting on positions one by one
# but keys and values. Anything else (experts, routers, recurrent mixers, gates) is refused.
_KEYS = frozenset({"attn.k", "attn.v", "attn.qkv"})
_ATTENTION = frozenset({"attn.q", "attn.o"})
_MLP = frozenset({"mlp.gate", "mlp.up", "mlp.gate_up", "mlp.down"})
_KNOWN = _KEYS | _ATTENTION | _MLP | {"norm"}

# Where the forward pass that runs now is read; None where all of it may be.
_read: ContextVar[Tensor | None] = ContextVar("read", default=None)


@contextmanager
def read_only_at(positions: Tensor) -> Iterator[None]:
    """Say that of the forward passes in this context only the logits at these positions are read.

    Changes nothing but in a model whose last layer is `spared`.

    Args:
        positions: Bool, [batch, tokens].
    """
    before = _read.set(positions)
    try:
        yield
    finally:
        _read.reset(before)


@dataclass(frozen=True)
class LastLayer:
    """What of a model's last decoder layer can be computed at chosen positions.

    Attributes:
        layer: The path of the whole layer.
        modules: The paths of those inside it that act on each position by itself: the MLP, the
            output projection, and the query projection where it is not fused with keys and values.
    """

    layer: str
    modules: tuple[str, ...]

    @classmethod
    def of(cls, anatomy: Anatomy) -> LastLayer:
        """The last layer of the model's language tower.

        Args:
            anatomy: The model's. Adapters, and experts where MLPs were, may have come since.

        Raises:
            TypeError: The layer is anything but attention + MLP with residuals.
        """
        tensors = anatomy.last_layer("language")
        held = {part for tensor in tensors for part in _parts(tensor)}
        if strange := sorted(held - _KNOWN):
            raise TypeError(f"the last layer of {anatomy.class_name} has {', '.join(strange)}")
        if missing := sorted({"attn.o", "mlp.down"} - held):
            raise TypeError(f"the last layer of {anatomy.class_name} has no {', '.join(missing)}")
        linear = {_owner(t) for t in tensors if t.part in _ATTENTION}
        mlp = _inside(t for t in tensors if t.part in _MLP)
        return cls(_inside(tensors), (*sorted(linear), mlp))

    def is_checkpointed(self, model: nn.Module) -> bool:
        """Whether the layer is run again in the backward pass."""
        return bool(getattr(model.get_submodule(self.layer), "gradient_checkpointing", False))

    @contextmanager
    def spared(self, model: nn.Module) -> Iterator[None]:
        """Where a forward pass is `read_only_at` positions, compute the layer's output right there.

        Raises:
            TypeError: The layer is checkpointed: it would be run again when nothing says any more
                where it is read.
        """
        if self.is_checkpointed(model):
            raise TypeError("a checkpointed layer is run again when no position is chosen any more")
        with ExitStack() as hooks:
            for module in map(model.get_submodule, self.modules):
                hooks.callback(module.register_forward_pre_hook(_gather).remove)
                hooks.callback(module.register_forward_hook(_scatter).remove)
            yield

    def agrees(self, model: nn.Module, inputs: Mapping[str, Tensor], predicts: Tensor) -> bool:
        """Whether the model gives the same logits both ways: the trial to make before training.

        Args:
            model: The one whose last layer this is.
            inputs: Keyword arguments of its forward, without labels.
            predicts: Bool, [batch, tokens]; True at some positions, False at others.
        """
        with evaluating(model):
            whole = supervised_logits(model, inputs, predicts)
            try:
                with self.spared(model), read_only_at(predicts):
                    narrow = supervised_logits(model, inputs, predicts)
            except Exception:  # whatever a class raises whose modules take something else
                return False
        # Half the digits of the dtype, as sums are taken in another order.
        allowed = torch.finfo(whole.dtype).eps ** 0.5 * float(whole.abs().max())
        return bool((narrow - whole).abs().max() <= allowed)


def _gather(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    if (positions := _read.get()) is None:
        return None
    hidden, *rest = args  # [batch, tokens, width] -> [1, chosen, width]
    return (hidden[positions.to(hidden.device)].unsqueeze(0), *rest)


def _scatter(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor | None:
    if (positions := _read.get()) is None:
        return None
    laid = output.new_zeros(*positions.shape, output.shape[-1])
    laid[positions.to(output.device)] = output[0]
    return laid


def _parts(tensor: TensorInfo) -> Sequence[str]:
    """What a tensor holds: of a fused one, each slice's role."""
    return [piece.part for piece in tensor.slices] if tensor.slices else [tensor.part]


def _owner(tensor: TensorInfo) -> str:
    """The path of the module that a parameter hangs on."""
    return tensor.name.rpartition(".")[0]


def _inside(tensors: Iterable[TensorInfo]) -> str:
    """The path of the smallest module that holds all of these."""
    owners = [_owner(tensor).split(".") for tensor in tensors]
    shared = []
    for names in zip(*owners, strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return ".".join(shared)
