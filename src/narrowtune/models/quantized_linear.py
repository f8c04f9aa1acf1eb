"""A linear layer with its matrix in 4 bits, to be put into a model and taken out again.

NF4 is the data type of QLoRA (arXiv 2305.14314, section 3): every 64 numbers share a scale, their
largest in size, and each number becomes one of 16 levels, the quantiles of a normal distribution.
bitsandbytes rounds and unpacks; the layer is our own, so that what is frozen lies in parameters
that the ledger hashes, and a forward pass never repacks it. bitsandbytes' own layer does so on CPUs
with AVX512-BF16 at its first answer in evaluation mode; from then on it computes in bfloat16, and
passes no gradient on (seen in 0.50.2).
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrowtune.record import Quantization

NF4 = "nf4"

BLOCK = 64
"""Numbers that share a scale."""

_SCALE = 4  # bytes: in fp32


class QuantizedLinear(nn.Module):
    """A linear layer whose matrix is kept in 4 bits and unpacked whenever it is used.

    Nothing of it is trained. Its output and the gradient of its input are those of a plain layer
    with the unpacked matrix.

    Args:
        packed: Two numbers a byte, row by row; uint8.
        absmax: The scale of every block of 64 numbers; fp32.
        bias: As it was, or None.
        shape: Of the matrix: (outputs, inputs).
        dtype: What the layer computes in.
    """

    packs: ClassVar = {"weight": ("packed", "absmax")}

    def __init__(
        self,
        packed: Tensor,
        absmax: Tensor,
        bias: nn.Parameter | None,
        shape: tuple[int, int],
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = shape
        self.dtype = dtype
        # Parameters, not buffers: they are weights, and ledgers and checkpoints hold them.
        self.packed = nn.Parameter(packed.reshape(-1), requires_grad=False)
        self.absmax = nn.Parameter(absmax.reshape(-1), requires_grad=False)
        self.bias = bias

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix: (outputs, inputs)."""
        return self.out_features, self.in_features

    @property
    def weight(self) -> Tensor:
        """The matrix unpacked, anew at every call: [outputs, inputs]."""
        return _unpacked(self.packed, self.absmax, self.shape, self.dtype)

    def forward(self, hidden: Tensor) -> Tensor:
        """The layer's output: [..., outputs]."""
        if torch.is_grad_enabled() and hidden.requires_grad:
            out: Tensor = _Product.apply(hidden, self.packed, self.absmax, self.bias, self)  # type: ignore[no-untyped-call]
            return out
        return F.linear(hidden, self.weight, self.bias)

    def extra_repr(self) -> str:
        """What `print` shows of it."""
        return f"in_features={self.in_features}, out_features={self.out_features}, {NF4}"


class _Product(torch.autograd.Function):
    """The product with a matrix that is unpacked once more for the backward pass, not kept."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        packed: Tensor,
        absmax: Tensor,
        bias: Tensor | None,
        layer: QuantizedLinear,
    ) -> Tensor:
        ctx.save_for_backward(packed, absmax)
        ctx.kind = layer.shape, layer.dtype
        return F.linear(hidden, _unpacked(packed, absmax, *ctx.kind), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        return gradients[0] @ _unpacked(*ctx.saved_tensors, *ctx.kind), None, None, None, None


def _unpacked(packed: Tensor, absmax: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    bitsandbytes()
    with torch.no_grad():
        unpack = torch.ops.bitsandbytes.dequantize_4bit.default
        out: Tensor = unpack(packed, absmax, BLOCK, NF4, shape, dtype)
        return out


def bytes_of(numel: int) -> int:
    """What a quantised matrix of so many numbers takes."""
    return -(-numel // 2) + _SCALE * -(-numel // BLOCK)


def quantization_of(model: nn.Module) -> Quantization | None:
    """What of a model is quantised here, None for a plain one."""
    layers = {path: one for path, one in model.named_modules() if isinstance(one, QuantizedLinear)}
    if not layers:
        return None
    packed = {id(p) for one in layers.values() for p in (one.packed, one.absmax)}
    numel = sum(one.in_features * one.out_features for one in layers.values())
    rest = sum(one.numel() for one in model.parameters() if id(one) not in packed)
    return Quantization(type=NF4, modules=tuple(layers), numel=numel, total_numel=numel + rest)


def compute_dtype(model: nn.Module) -> torch.dtype:
    """What a model's first weights compute in; scales of packed ones are fp32 in any."""
    for module in model.modules():
        if isinstance(module, QuantizedLinear):
            return module.dtype
        for parameter in module.parameters(recurse=False):
            if parameter.is_floating_point():
                return parameter.dtype
    raise TypeError(f"{type(model).__name__} has no weights")


def quantize_skeleton(model: nn.Module, quantization: Quantization, dtype: torch.dtype) -> None:
    """Give a skeleton the layers that the loaded model has, in place.

    Args:
        model: On the meta device.
        quantization: What is to be quantised.
        dtype: What it computes in.
    """
    for path in quantization.modules:
        layer: Any = model.get_submodule(path)
        numel = layer.weight.numel()
        with torch.device("meta"):
            packed = torch.empty(-(-numel // 2), dtype=torch.uint8)
            absmax = torch.empty(-(-numel // BLOCK))
        shape = (layer.out_features, layer.in_features)
        replace_layer(model, path, QuantizedLinear(packed, absmax, layer.bias, shape, dtype))


def dequantize(model: nn.Module) -> None:
    """Make every quantised layer a plain one with the matrix it has been computing with."""
    for path, layer in list(model.named_modules()):
        if not isinstance(layer, QuantizedLinear):
            continue
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(layer.weight, requires_grad=False)
        plain.bias = layer.bias  # type: ignore[assignment]
        replace_layer(model, path, plain.train(layer.training))


@cache
def bitsandbytes() -> None:
    """Load its operations; of a kernel it would like to have beside it we need to hear nothing."""
    quiet = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    import bitsandbytes  # noqa: F401

    quiet.setLevel(level)


def replace_layer(model: nn.Module, path: str, fresh: nn.Module) -> None:
    """Put a layer in the place of another, which a path leads to."""
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, fresh)
