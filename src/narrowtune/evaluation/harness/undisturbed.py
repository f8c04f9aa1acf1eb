"""Letting foreign code run a model, and finding everything as it was."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import ImageFile
from torch import nn

from narrowtune.models.generation import evaluating


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[nn.Module]:
    """The bare model in evaluation mode; modes, settings and random numbers put back afterwards."""
    inner: nn.Module = getattr(model, "module", model)  # a data-parallel wrapper cannot generate
    with own_random_numbers(), evaluating(inner), _settings_kept(inner):
        yield inner


@contextmanager
def own_random_numbers() -> Iterator[None]:
    """Global random states seeded as both harnesses seed them, and afterwards as they were.

    Harnesses draw for few-shot examples and for answers that they cannot read. A score must not
    depend on what was drawn before it, nor training on what an evaluation drew.
    """
    python, array = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            random.seed(0)
            np.random.seed(1234)
            torch.manual_seed(1234)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)


@contextmanager
def pillow_kept() -> Iterator[None]:
    """Pillow's word on truncated images as it was: importing lmms-eval lets them pass for whole."""
    own = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = own


@contextmanager
def _settings_kept(model: Any) -> Iterator[None]:
    """The model's own generation settings, and its ties as they are.

    HFLM ties weights anew when it takes a model over. Where embedding and head were trained
    apart, that would overwrite one with the other. A `max_new_tokens` of the model's folder would
    overrule the task's answer length, which lm-eval gives as `max_length`.
    """
    own = getattr(model, "generation_config", None)
    model.generation_config = copy.deepcopy(own)
    if own is not None:
        model.generation_config.max_new_tokens = None
    model.tie_weights = lambda *args, **kwargs: None
    try:
        yield
    finally:
        del model.tie_weights
        model.generation_config = own
