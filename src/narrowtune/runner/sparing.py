"""What a step of training need not compute or keep, and still have the same loss and gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext

from torch import nn

from narrowtune.anatomy import Anatomy
from narrowtune.models.activation_checkpointing import checkpointable, checkpointed
from narrowtune.models.compiling import compiled
from narrowtune.models.last_layer import LastLayer
from narrowtune.models.recomputing import recomputing_elementwise
from narrowtune.models.supervised import predicting
from narrowtune.models.tied_embedding import tied_rows_alone
from narrowtune.runner.frozen import frozen_towers_without_gradient
from narrowtune.training.loop import MicroBatch


@contextmanager
def spared(
    model: nn.Module,
    anatomy: Anatomy,
    trained: Iterable[str],
    trial: MicroBatch | None = None,
    *,
    checkpointing: bool = False,
    compiling: bool = False,
) -> Iterator[None]:
    """Nothing of frozen towers is kept for a backward pass, nothing that no loss reads computed.

    A tied embedding has no second gradient of its size, and of elementwise results nothing is kept
    that can be computed again.

    Args:
        model: The model, with its adapters and experts on.
        anatomy: Its own, without them.
        trained: The towers of which anything is trained.
        trial: A few samples, whose logits must be the same with and without all that the last layer
            computes for nobody; None takes that for granted.
        checkpointing: Layers that a gradient passes keep their input alone.
        compiling: Decoder layers but the last run as compiled graphs, behind the trial.
    """
    towers = set(trained)
    layers = checkpointable(model, anatomy, towers) if checkpointing else []
    graphs = checkpointable(model, anatomy, ()) if compiling else []
    still = frozen_towers_without_gradient(model, anatomy, towers)
    with checkpointed(layers), still, tied_rows_alone(model), recomputing_elementwise():
        last = _last_layer(model, anatomy, trial)
        with last.spared(model) if last is not None else nullcontext(), compiled(graphs):
            yield


def _last_layer(model: nn.Module, anatomy: Anatomy, trial: MicroBatch | None) -> LastLayer | None:
    """The last layer, if it can be spared anything in this model."""
    try:
        found = LastLayer.of(anatomy)
    except TypeError:
        return None
    if found.is_checkpointed(model):
        return None
    if trial is None or found.agrees(model, trial.inputs, predicting(trial.supervised)):
        return found
    return None
