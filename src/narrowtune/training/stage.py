"""One stage from its first step, or from its checkpoint, to its last."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, count, islice, takewhile
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from narrowtune.data.encoding import Encoded
from narrowtune.data.grouped_order import grouped_order
from narrowtune.data.order import Mix, epoch_order, mixed_order, order_digest
from narrowtune.engine import Engine, seed_everything
from narrowtune.errors import NarrowTuneError
from narrowtune.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from narrowtune.training.guard import Guard, Unguarded
from narrowtune.training.loop import (
    MicroBatch,
    Objective,
    Step,
    StepResult,
    labels_alone,
    teach,
)
from narrowtune.training.optimisers import optimiser_for
from narrowtune.training.schedule import learning_rate_factor
from narrowtune.training.settings import Settings
from narrowtune.training.weights import TrainedWeights


class Interrupted(NarrowTuneError):
    """Stopped between two steps at the user's wish; a checkpoint has been written."""


class Collate(Protocol):
    """Makes a right-padded micro-batch on the engine's device."""

    def __call__(self, rows: Sequence[Encoded], /) -> MicroBatch:
        """The rows as one batch."""


Order = Callable[[Sequence[int], Settings], list[list[int]]]
"""Indices of each step's samples, from the samples' lengths in tokens."""


@dataclass(frozen=True)
class Hooks:
    """What surrounds a stage; of these only `guard`, `objective` and `order` can change its
    result.

    Attributes:
        checkpoint: Where to write, and resume from where it exists.
        every_seconds: How often to write it.
        on_step: Told of each finished step.
        should_stop: Asked between steps; True writes a checkpoint and ends the stage.
        guard: May add to the loss, and end the stage early with other weights.
        objective: What a micro-batch is learned by.
        order: Which samples each step sees.
    """

    checkpoint: Path
    every_seconds: float = 60.0
    on_step: Callable[[StepResult], None] = lambda result: None
    should_stop: Callable[[], bool] = lambda: False
    guard: Guard = field(default_factory=Unguarded)
    objective: Objective = labels_alone
    order: Order = field(default_factory=lambda: batch_order)


@dataclass(frozen=True)
class StageResult:
    """What a stage did: its steps, and what they cost in this and earlier sessions.

    `unreached` names the trained parameters that no gradient came to in this session.
    """

    steps: tuple[StepResult, ...]
    seconds: float
    samples: int
    tokens: int
    supervised_tokens: int
    order_sha256: str
    unreached: tuple[str, ...] = ()


@dataclass
class _Progress:
    """Counts a stage keeps while it runs, and writes into its checkpoints."""

    done: list[StepResult] = field(default_factory=list)
    earlier_seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return self.earlier_seconds + time.monotonic() - self.started

    def as_checkpoint(self, guard: Guard) -> Checkpoint:
        return Checkpoint(tuple(self.done), self.seconds, guard.state())


def run_stage(
    model: nn.Module,
    named: Sequence[tuple[str, nn.Parameter]],
    data: tuple[Sequence[Encoded], Collate],
    settings: Settings,
    engine: Engine,
    hooks: Hooks,
) -> StageResult:
    """Train the named parameters on the data, with an optimiser of the stage's own.

    Args:
        model: The model; its trained parameters require gradients, all others do not.
        named: The trained parameters.
        data: Encoded samples, and how rows become a batch.
        settings: Every number that decides the result.
        engine: Devices and processes.
        hooks: Checkpoints and progress.

    Raises:
        Diverged: The loss became NaN; the checkpoint, if one was due, is from before.
        Interrupted: `should_stop` said so; the checkpoint holds the last step.
    """
    seed_everything(settings.seed)
    rows, _ = data
    weights = TrainedWeights(named, settings.offload_optimizer)
    optimiser = optimiser_for(
        weights, settings.optim, settings.learning_rate, settings.weight_decay
    )
    guard = hooks.guard
    guard.begin(weights)
    progress = _resumed(hooks.checkpoint, weights, optimiser, guard)
    batches = hooks.order([len(row) for row in rows], settings)
    steps = _steps(batches, data, settings, engine, hooks)

    def save() -> None:
        # A NaN from the last update shows only in the next loss; it must not replace good weights.
        if engine.is_main and weights.are_finite():
            save_checkpoint(hooks.checkpoint, weights, optimiser, progress.as_checkpoint(guard))
        progress.saved = time.monotonic()

    def after_step(result: StepResult) -> None:
        progress.done.append(result)
        before = time.monotonic()
        hooks.on_step(result)
        guard.after(result.step, model, weights)
        progress.started += time.monotonic() - before  # whoever watches takes no training time
        if hooks.should_stop() and result.step < settings.steps:
            save()
            raise Interrupted(f"stopped after step {result.step} of {settings.steps}")
        if time.monotonic() - progress.saved > hooks.every_seconds:
            save()

    going = takewhile(lambda _: not guard.ended, steps(len(progress.done)))
    teach(model, weights, optimiser, going, engine, after_step)
    return replace(_result(progress, batches, rows), unreached=weights.unreached)


def batch_order(
    lengths: Sequence[int], settings: Settings, groups: Sequence[int] = ()
) -> list[list[int]]:
    """Which samples each step sees: epoch after epoch until the steps are filled.

    Where samples are replayed, they are the last ones, and take the place of a share of the
    stage's own in every step.

    Args:
        lengths: Tokens of each sample.
        settings: Of the stage.
        groups: What each sample belongs to; those of one group share a step where they fit.
    """
    own = lengths[: len(lengths) - settings.replayed]
    draw = partial(grouped_order, own, groups[: len(own)]) if groups else partial(epoch_order, own)
    epochs = (draw(settings.batch_size, settings.seed, epoch) for epoch in count())
    batches = chain.from_iterable(epochs)
    if not settings.replayed:
        return list(islice(batches, settings.steps))
    others = range(len(own), len(lengths))
    mix = Mix(settings.replay, settings.seed)
    return mixed_order(batches, others, settings.steps, settings.batch_size, mix)


def _resumed(
    path: Path, weights: TrainedWeights, optimiser: torch.optim.Optimizer, guard: Guard
) -> _Progress:
    if not path.exists():
        return _Progress()
    before = load_checkpoint(path, weights, optimiser)
    guard.resume(before.guard)
    return _Progress(done=list(before.done), earlier_seconds=before.seconds)


def _steps(
    batches: Sequence[Sequence[int]],
    data: tuple[Sequence[Encoded], Collate],
    settings: Settings,
    engine: Engine,
    hooks: Hooks,
) -> Callable[[int], Iterator[tuple[int, Step]]]:
    rows, collate = data

    def start_at(first: int) -> Iterator[tuple[int, Step]]:
        for number in range(first, len(batches)):
            batch = [rows[index] for index in batches[number]]
            factor = learning_rate_factor(
                number, settings.steps, settings.schedule, settings.warmup
            )
            yield (
                number,
                Step(
                    micro_batches=_micro_batches(batch, collate, settings.micro_batch_size, engine),
                    supervised_tokens=sum(row.supervised_tokens for row in batch),
                    learning_rate=settings.learning_rate * factor,
                    max_grad_norm=settings.max_grad_norm,
                    anchor=partial(hooks.guard.pull, number),
                    objective=hooks.objective,
                ),
            )

    return start_at


def _micro_batches(
    batch: Sequence[Encoded], collate: Collate, size: int, engine: Engine
) -> list[Callable[[], MicroBatch]]:
    mine = engine.share(batch)
    # Every process runs the same number of forwards, or the exchange of gradients would hang.
    most = -(-len(batch) // engine.processes)
    cuts = [mine[start : start + size] for start in range(0, most, size)]
    return [partial(_micro_batch, rows, batch[0], collate) for rows in cuts]


def _micro_batch(rows: Sequence[Encoded], spare: Encoded, collate: Collate) -> MicroBatch:
    if rows:
        return collate(rows)
    idle = collate([spare])  # a process without a share runs along, learning nothing
    idle.supervised.zero_()
    return idle


def _result(
    progress: _Progress, batches: Sequence[Sequence[int]], rows: Sequence[Encoded]
) -> StageResult:
    seen = [rows[index] for batch in batches[: len(progress.done)] for index in batch]
    return StageResult(
        steps=tuple(progress.done),
        seconds=progress.seconds,
        samples=len(seen),
        tokens=sum(len(row) for row in seen),
        supervised_tokens=sum(row.supervised_tokens for row in seen),
        order_sha256=order_digest([list(batch) for batch in batches]),
    )
