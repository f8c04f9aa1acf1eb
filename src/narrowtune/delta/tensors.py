"""Named tensors to and from a safetensors file, written all at once or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from narrowtune.errors import InputError


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write the tensors to `path`; a crash half-way leaves the older file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".part")
    whole = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    save_file(whole, half, metadata)
    os.replace(half, path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file, on CPU.

    Raises:
        InputError: If the file is missing or damaged.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except OSError as error:
        raise InputError(f"{path} can't be read: {error}") from error
    except SafetensorError as error:
        raise InputError(f"{path} can't be read, it is truncated or damaged: {error}") from error
    return tensors
