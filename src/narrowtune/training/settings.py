"""The numbers a stage is trained with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Everything about training one stage that can change its result, but the data.

    Attributes:
        steps: Optimiser steps.
        batch_size: Samples per step, over all processes and micro-batches.
        micro_batch_size: Samples put through the model at once, per process.
        learning_rate: Peak learning rate.
        schedule: `cosine`, `linear` or `constant`, after warm-up.
        warmup: Share of the steps over which the rate rises from zero.
        weight_decay: AdamW's decoupled decay, on matrices only.
        optim: `adamw`, or `adamw_8bit`, whose moments are rounded.
        max_grad_norm: L2 norm the gradient is clipped to.
        seed: Decides the data order and any dropout.
        replay: Share of every batch that is drawn from other samples than the stage's own.
        replayed: How many such samples stand behind the stage's own ones.
        share_images: Whether questions on one image share a step, where it is passed once.
        padding_free: Whether batches with much padding are written without any.
        activation_checkpointing: Whether layers keep their input alone for the backward pass.
        offload_optimizer: Whether masters, gradients and moments lie in the machine's memory.
        torch_compile: Whether decoder layers run as compiled graphs.
    """

    steps: int
    batch_size: int
    micro_batch_size: int
    learning_rate: float
    schedule: str = "cosine"
    warmup: float = 0.03
    weight_decay: float = 0.0
    optim: str = "adamw"
    max_grad_norm: float = 1.0
    seed: int = 0
    replay: float = 0.0
    replayed: int = 0
    share_images: bool = False
    padding_free: bool = True
    activation_checkpointing: bool = False
    offload_optimizer: bool = False
    torch_compile: bool = False
