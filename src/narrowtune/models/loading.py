"""Weights from a folder, a hub id or a bundled name, in a dtype chosen with a reason."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers.utils.logging import disable_progress_bar

from narrowtune.errors import InputError, nearest
from narrowtune.models.experts import experts_of
from narrowtune.models.quantization import (
    check_quantization,
    loading_options,
    settle,
)
from narrowtune.models.quantized_linear import quantization_of
from narrowtune.models.skeleton import build_skeleton, load_config, model_class, resolve
from narrowtune.record import Quantization

# What lies beside the weights: configs, vocabularies, templates. Weight indexes are excluded
# because `save_pretrained` writes its own.
_COMPANIONS = (".json", ".jinja", ".model", ".txt")

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    model: str,
    revision: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
    trust_remote_code: bool = False,
    quantization: Quantization | None = None,
) -> nn.Module:
    """The model with its weights, in evaluation mode.

    Args:
        model: A bundled name, a local folder or a hub id.
        revision: Commit of a hub model.
        dtype: `float32`, `bfloat16` or `auto` (see `choose_dtype`).
        device: A torch device; the GPU where there is one, otherwise the CPU.
        trust_remote_code: Whether Python code that comes with the model may run.
        quantization: Which matrices are packed as they are read; None for none.

    Raises:
        InputError: If it is no model, can't be quantised so, or its weights don't fit its config.
    """
    target = check_device(device)
    disable_progress_bar()
    config = load_config(model, revision, trust_remote_code)
    kind: Any = model_class(config)
    computed_in, options = choose_dtype(dtype, target), {}
    if quantization is not None:
        check_quantization(quantization.type, target)
        options = loading_options(build_skeleton(config), quantization, target)
    try:
        loaded, info = kind.from_pretrained(
            resolve(model),
            revision=revision,
            dtype=computed_in,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"the weights of {model} can't be loaded: {error}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise InputError(
            f"{model} lacks {len(missing)} weights of {kind.__name__}, first {missing[0]}: "
            "the folder is incomplete or its config belongs to another model"
        )
    if quantization is not None:
        settle(loaded, quantization, computed_in)
    module: nn.Module = loaded.to(target).eval()
    return module


def choose_dtype(dtype: str, device: str) -> torch.dtype:
    """The compute dtype: as asked, or for `auto` float32 on CPU and bfloat16 elsewhere.

    Raises:
        InputError: If no model computes in it.
    """
    if dtype == "auto":
        return torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
    if dtype not in _DTYPES:
        raise InputError(f"no dtype {dtype!r}; {nearest(dtype, ('auto', *_DTYPES))}")
    return _DTYPES[dtype]


def check_device(device: str | None) -> str:
    """The device to compute on: as asked, or this machine's best.

    Raises:
        InputError: If it does not exist here, naming what does.
    """
    if device is None:
        return default_device()
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = ["cpu"] if default_device() == "cpu" else ["cpu", default_device()]
        raise InputError(
            f"no device {device!r} on this machine; available: {', '.join(here)}"
        ) from error
    return device


def default_device() -> str:
    """`cuda` where PyTorch sees a GPU, `mps` on Apple silicon, otherwise `cpu`."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def save_model(model: nn.Module, source: str, folder: Path, revision: str | None = None) -> None:
    """Write a folder that `from_pretrained` loads: weights, config, tokenizer, processor.

    The folder appears under its name only when all of it is written.

    Args:
        model: The taught model.
        source: The model it was loaded from, whose tokenizer and processor files are copied.
        folder: Where to write.
        revision: Commit of a hub model.

    Raises:
        InputError: It is a mixture of experts made here, or quantised here, which no class would
            load.
    """
    if experts_of(model) is not None:
        raise InputError(
            "a model with experts beside its MLPs (method moe) can't be written as a folder: no "
            "class of transformers loads it; keep its deltas, and load them with nt.load"
        )
    if quantization_of(model) is not None:
        raise InputError(
            "a model quantised by model.quantization can't be written as it is: no class of "
            "transformers loads its layers; narrowtune delta apply writes it unpacked"
        )
    half = folder.with_name(folder.name + ".part")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    writer: Any = model
    writer.save_pretrained(half)
    for file in sorted(_local_folder(source, revision).iterdir()):
        fresh = not (half / file.name).exists()
        if fresh and file.suffix in _COMPANIONS and not file.name.endswith(".index.json"):
            shutil.copyfile(file, half / file.name)
    half.replace(folder)


def _local_folder(source: str, revision: str | None) -> Path:
    folder = Path(resolve(source))
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    patterns = [f"*{suffix}" for suffix in _COMPANIONS]
    return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))


@contextmanager
def without_gradient(model: nn.Module, prefixes: Sequence[str]) -> Iterator[None]:
    """Run the modules at `prefixes` under `no_grad` while the context lasts.

    For frozen towers that read pixels only: nothing of theirs is saved for a backward pass,
    whatever checkpointing or input hooks the rest of the model uses.
    """
    modules = [module for prefix in prefixes for module in _callable_modules(model, prefix)]
    before = [module.forward for module in modules]
    for module in modules:
        module.forward = torch.no_grad()(module.forward)
    try:
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            module.forward = forward


def _callable_modules(model: nn.Module, prefix: str) -> list[nn.Module]:
    """The modules at `prefix` that have a forward of their own: a list's members, not the list."""
    try:
        module = model.get_submodule(prefix)
    except AttributeError:
        return []  # the prefix names a bare parameter, not a module
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        return [
            child
            for name, _ in module.named_children()
            for child in _callable_modules(module, name)
        ]
    return [module]
