"""The proof of freezing: a hash of every frozen tensor before and after a stage."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn


def fingerprint(model: nn.Module, trained: Collection[str]) -> dict[str, str]:
    """SHA-256 of every parameter and buffer that is not trained, by name.

    Non-persistent buffers count too: they never reach a file, but they change what the model
    computes. A tied tensor appears once, under the name its module reports first.

    Args:
        model: The model, unwrapped.
        trained: Parameter names left out.
    """
    skip = set(trained)
    return {name: hash_tensor(tensor) for name, tensor in _tensors(model) if name not in skip}


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    """Names whose hash differs, or that appeared or vanished; empty when freezing held."""
    names = sorted(before.keys() | after.keys())
    return tuple(name for name in names if before.get(name) != after.get(name))


def hash_tensor(tensor: Tensor) -> str:
    """SHA-256 of a tensor's dtype, shape and bytes: bit-identity, where -0.0 differs from 0.0."""
    digest = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()
