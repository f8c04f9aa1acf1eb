"""Activation checkpointing: layers keep their input alone and compute the rest once more.

When the backward pass comes to a checkpointed layer, its forward runs again on the input that it
kept, with the same kernels and the same random numbers (arXiv 1604.06174, section 4): the same
bits, less memory, one more forward.

The layers checkpoint themselves, as transformers' classes do (`GradientCheckpointingLayer`). Its
`activation_checkpointing_enable` takes every tower of the model, and lets the embeddings require
gradients, so that a frozen vision tower and the layers below the trained ones would be computed
twice and differentiated for nothing. Here the layers are chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from narrowtune.anatomy import Anatomy

_FLAG, _FUNCTION = "gradient_checkpointing", "_gradient_checkpointing_func"


def checkpointable(model: nn.Module, anatomy: Anatomy, trained: Iterable[str]) -> list[nn.Module]:
    """The layers to checkpoint: of the language tower all but the last, of trained towers all.

    The last decoder layer's activations are needed as soon as the backward pass begins, so keeping
    only its input makes the peak lower by no more than the logits and what comes of them, of which
    there are few (`models.supervised`); running it again takes 1/L of a forward.

    Args:
        model: The model. Adapters, and experts where MLPs were, may have come since.
        anatomy: The model's.
        trained: The towers of which anything is trained.

    Returns:
        The outermost ones, in the model's order; empty for a class whose layers can't.
    """
    towers = {"language", *trained}
    prefixes = anatomy.tower_prefixes(*(tower for tower in anatomy.towers if tower in towers))
    last = [tensor.name for tensor in anatomy.last_layer("language")]
    found: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        if not isinstance(module, GradientCheckpointingLayer) or _inside(path, found):
            continue
        if _inside(path, prefixes) and not any(_inside(name, [path]) for name in last):
            found[path] = module
    return list(found.values())


def layers_problem(model: nn.Module, anatomy: Anatomy) -> str | None:
    """Why no layer of this model is found; None where some are, or it has one only."""
    if anatomy.depth("language") < 2 or checkpointable(model, anatomy, ()):
        return None
    return (
        f"the layers of {anatomy.class_name} can't be told: none of them derives from "
        "transformers' GradientCheckpointingLayer"
    )


@contextmanager
def checkpointed(layers: Sequence[nn.Module]) -> Iterator[None]:
    """While the context lasts these layers are checkpointed wherever they are in training mode."""
    before: list[dict[str, Any]] = [vars(layer).copy() for layer in layers]
    for layer in layers:
        setattr(layer, _FLAG, True)
        # Random states are kept (the default), so dropout draws the same numbers again.
        setattr(layer, _FUNCTION, partial(checkpoint, use_reentrant=False))
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            for name in (_FLAG, _FUNCTION):
                if name in own:
                    setattr(layer, name, own[name])
                else:
                    delattr(layer, name)


def _inside(path: str, prefixes: Iterable[str]) -> bool:
    return any(not prefix or f"{path}.".startswith(f"{prefix}.") for prefix in prefixes)
