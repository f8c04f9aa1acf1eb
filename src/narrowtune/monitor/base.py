"""The untouched model that a trainer's model is compared with: found inside it, or loaded once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import nn

from narrowtune.errors import InputError
from narrowtune.models.loading import load_model
from narrowtune.models.quantized_linear import compute_dtype, quantization_of

CHANGED_AT_INIT = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations of adapters that take their part out of the weights beneath."""


@contextmanager
def base_of(model: nn.Module, given: str | nn.Module | None, started: bool) -> Iterator[nn.Module]:
    """Lends the base.

    Args:
        model: The model trained, as it stands.
        given: A base named or held by the user.
        started: Whether training has changed the model already: it was resumed.

    Raises:
        InputError: It was, nothing was given, and the model does not hold its base.
    """
    if given is not None:
        yield _loaded(given, model) if isinstance(given, str) else given
        return
    holds = _adapters_alone(model)
    if started and not holds:
        raise InputError(
            "training was resumed from a checkpoint, whose weights are no longer the base's; give "
            "the monitor the model it began with: DriftMonitor(..., base=NAME_OR_FOLDER)"
        )
    inner: Any = model
    trained = [(weight, weight.requires_grad) for weight in model.parameters()]
    with inner.disable_adapter() if holds else nullcontext():
        yield model
    for weight, before in trained:  # switching adapters on again trains all of them
        weight.requires_grad_(before)


def _loaded(name: str, model: nn.Module) -> nn.Module:
    """The base as the model was loaded: in its dtype, with the same matrices quantised."""
    outer: Any = model
    inner: nn.Module = outer.get_base_model() if hasattr(outer, "disable_adapter") else model
    dtype = str(compute_dtype(inner)).removeprefix("torch.")
    device = str(next(inner.parameters()).device)
    return load_model(name, dtype=dtype, device=device, quantization=quantization_of(inner))


def _adapters_alone(model: nn.Module) -> bool:
    """Whether the base is what a PEFT model is with its adapters switched off.

    Not so where an initialisation took the adapters' part out of the weights beneath, or where
    biases beneath are trained.
    """
    inner: Any = model
    if not hasattr(model, "disable_adapter"):
        return False
    return all(
        getattr(config, "bias", "none") == "none"
        and not str(getattr(config, "init_lora_weights", True)).lower().startswith(CHANGED_AT_INIT)
        for config in inner.peft_config.values()
    )
