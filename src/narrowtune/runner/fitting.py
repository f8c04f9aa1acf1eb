"""What would make an arm fit a device that it does not fit as it is, each way predicted anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import torch

from narrowtune.errors import InputError
from narrowtune.models.quantized_linear import NF4
from narrowtune.runner.cost import ArmCost, Choice, Costs
from narrowtune.runner.plan import ArmPlan
from narrowtune.runner.quantizing import planned_quantization
from narrowtune.training import Settings
from narrowtune.training.optimisers import EIGHT_BIT, check_optimiser

# Narrower ways of teaching, in the order of what they change for the worse least often.
_NARROWER = ("gate-up", "attention", "attention-qkv")
_CHECKPOINTING = "training.activation_checkpointing: true"
_OFFLOADING = "training.offload_optimizer: true"


@dataclass(frozen=True)
class Way:
    """One way to take less memory.

    Attributes:
        words: What to set, as an experiment has it.
        cost: What the arm takes then.
        fits: Whether that is enough.
    """

    words: str
    cost: ArmCost
    fits: bool


def ways_to_fit(costs: Costs, arm: ArmPlan) -> list[Way]:
    """Ways that are enough by themselves; if none is, all at once and what is left of them.

    Args:
        costs: Of the plan, on the device that is too small.
        arm: The arm that does not fit.
    """
    alone = [
        *_checkpointed(costs, arm),
        *_offloaded(costs, arm),
        *_eight_bit(costs, arm),
        _smaller_batches(costs, arm, Choice(costs.dtype)),
        *_halved(costs, arm),
        *_quantised(costs, arm),
        *_narrowed(costs, arm),
    ]
    found = [way for way in alone if way is not None]
    if enough := [way for way in found if way.fits]:
        return enough
    return [*found, *_all_at_once(costs, arm)]


def _checkpointed(costs: Costs, arm: ArmPlan) -> Iterator[Way]:
    """First of all, since it changes no bit."""
    choice = Choice(costs.dtype, activation_checkpointing=True)
    if _can_checkpoint(costs, arm):
        cost = costs.of(arm, choice)
        yield Way(_CHECKPOINTING, cost, costs.fits(cost))


def _eight_bit(costs: Costs, arm: ArmPlan) -> Iterator[Way]:
    """Where its package is there to be rehearsed with; on a CPU it widens whole tensors."""
    if costs.kind == "cpu":
        return
    with suppress(InputError):
        check_optimiser(EIGHT_BIT)
        cost = costs.of(arm, Choice(costs.dtype, optim=EIGHT_BIT))
        if cost.peak < costs.of(arm).peak:
            yield Way(f"training.optim: {EIGHT_BIT}", cost, costs.fits(cost))


def _offloaded(costs: Costs, arm: ArmPlan) -> Iterator[Way]:
    """On a CPU there is nowhere to go."""
    if not _can_offload(costs, arm):
        return
    cost = costs.of(arm, Choice(costs.dtype, offload_optimizer=True))
    if cost.peak < costs.of(arm).peak:
        yield Way(_OFFLOADING, cost, costs.fits(cost))


def _can_offload(costs: Costs, arm: ArmPlan) -> bool:
    """Where the optimiser keeps full moments, and the weights are in another memory."""
    return costs.kind != "cpu" and all(one.optim != EIGHT_BIT for one in _settings(costs, arm))


def _settings(costs: Costs, arm: ArmPlan) -> list[Settings]:
    return [costs.plan.settings(arm, stage) for stage in costs.plan.stages]


def _can_checkpoint(costs: Costs, arm: ArmPlan) -> bool:
    """Whether its layers can, and there is a stage where they don't yet."""
    already = all(one.activation_checkpointing for one in _settings(costs, arm))
    return costs.can_checkpoint and not already


def _smaller_batches(costs: Costs, arm: ArmPlan, choice: Choice, also: str = "") -> Way | None:
    """The largest micro-batch that fits, of halves of halves; else the smallest."""
    size = costs.of(arm).micro_batch_size
    tried: Way | None = None
    while size > 1:
        size = _next(size, costs, arm)
        cost = costs.of(arm, replace(choice, micro_batch_size=size))
        words = f"training.micro_batch_size: {size}"
        tried = Way(f"{also}, {words}" if also else words, cost, costs.fits(cost))
        if tried.fits:
            break
    return tried


def _next(size: int, costs: Costs, arm: ArmPlan) -> int:
    """The largest number up to half of `size` that divides every stage's batch."""
    wholes = {one.batch_size for one in _settings(costs, arm)}
    return next(one for one in range(size // 2, 0, -1) if not any(whole % one for whole in wholes))


def _halved(costs: Costs, arm: ArmPlan) -> Iterator[Way]:
    if costs.dtype == torch.float32:
        cost = costs.of(arm, Choice(torch.bfloat16))
        yield Way("model.dtype: bfloat16", cost, costs.fits(cost))


def _quantised(costs: Costs, arm: ArmPlan) -> Iterator[Way]:
    """Where some matrices are trained by no arm, and the package is there to be rehearsed with."""
    if costs.plan.quantization is not None:
        return
    with suppress(InputError):
        planned_quantization(costs.plan, NF4)
        cost = costs.of(arm, Choice(costs.dtype, quantization=NF4))
        if cost.peak < costs.of(arm).peak:
            yield Way(f"model.quantization: {NF4}", cost, costs.fits(cost))


def _narrowed(costs: Costs, arm: ArmPlan) -> Iterator[Way]:
    for name, narrow in _narrower(costs, arm):
        cost = costs.of(narrow)
        yield Way(f"recipe: {name}", cost, costs.fits(cost))


def _narrower(costs: Costs, arm: ArmPlan) -> Iterator[tuple[str, ArmPlan]]:
    """The arm with recipes that train less; an arm with methods of its own keeps its selection."""
    if arm.spec.method.names:
        return
    for name in _NARROWER:
        try:
            selection = costs.plan.anatomy.select([name])
        except InputError:
            continue  # the model has no such part
        if selection.trained_numel < arm.selection.trained_numel:
            told = {"recipe": name, "train": None, "keep": ()}
            yield name, replace(arm, spec=arm.spec.model_copy(update=told), selection=selection)


def _all_at_once(costs: Costs, arm: ArmPlan) -> Iterator[Way]:
    name, narrow = next(_narrower(costs, arm), ("", arm))
    halved = costs.dtype == torch.float32
    dtype = torch.bfloat16 if halved else costs.dtype
    recompute = _can_checkpoint(costs, narrow)
    words = [f"recipe: {name}"] * bool(name) + ["model.dtype: bfloat16"] * halved
    offload = _can_offload(costs, narrow)
    words += [_CHECKPOINTING] * recompute + [_OFFLOADING] * offload
    choice = Choice(dtype, activation_checkpointing=recompute, offload_optimizer=offload)
    way = _smaller_batches(costs, narrow, choice, ", ".join(words))
    if way is not None and words:
        yield way
