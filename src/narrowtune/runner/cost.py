"""What a plan will take: memory at the peak and time, arm by arm, before anything is loaded.

The heaviest micro-batch of an arm is rehearsed by the code that will train on it (`rehearsing`);
nothing about a family of models is assumed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from narrowtune.data.batches import KEPT_BYTES
from narrowtune.data.batching import Batch, collate
from narrowtune.data.encoding import Encoded
from narrowtune.engine.devices import (
    HOST_BANDWIDTH,
    HOST_LINK,
    UTILISATION,
    Device,
    named_device,
    this_machine,
)
from narrowtune.engine.rehearsal import Rehearsal
from narrowtune.engine.resident import peak_on_cpu, peak_on_gpu, process_bytes
from narrowtune.evaluation import PreparedTask
from narrowtune.models.activation_checkpointing import checkpointable
from narrowtune.models.loading import choose_dtype, default_device
from narrowtune.models.quantization import weight_bytes
from narrowtune.models.quantized_linear import bitsandbytes
from narrowtune.models.skeleton import build_skeleton, load_config
from narrowtune.runner.plan import ArmPlan, Plan, StagePlan
from narrowtune.runner.quantizing import planned_quantization
from narrowtune.runner.rehearsing import Rehearsed, rehearse
from narrowtune.training import Settings
from narrowtune.training.optimisers import state_bytes

KINDS = ("weights", "masters", "gradients", "optimiser", "methods", "activations", "logits")
"""What an arm's memory is told as, besides `kept_batches`, `process` and `allocator` on a CPU."""

_FP32 = 4  # bytes
# EWC keeps the weights as they were and their Fisher information, both in fp32.
_EWC_BYTES = 2 * _FP32
# Of AdamW, per number: gradient, weight and two moments read, the latter three written.
_ADAMW_TRAFFIC = 7 * _FP32


@dataclass(frozen=True)
class Choice:
    """What of an arm may be chosen otherwise to make it fit.

    Attributes:
        dtype: What the model computes in.
        micro_batch_size: Samples at once; None as the experiment has it.
        activation_checkpointing: Where the experiment has it, and here too.
        optim: None as the experiment has it.
        offload_optimizer: Where the experiment has it, and here too.
        quantization: Of the base; None as the experiment has it.
    """

    dtype: torch.dtype
    micro_batch_size: int | None = None
    activation_checkpointing: bool = False
    optim: str | None = None
    offload_optimizer: bool = False
    quantization: str | None = None


@dataclass(frozen=True)
class ArmCost:
    """An arm's cost as predicted.

    Attributes:
        peak: Bytes at the peak of its training: what `peak_bytes` of a record's cost tells.
        parts: Of what the peak is made.
        seconds: Of training at all stages; None where that is not known.
        micro_batch_size: The most samples at once.
        missing: Why activations, logits and time are not told; empty where they are.
    """

    peak: int
    parts: Mapping[str, int]
    seconds: float | None
    micro_batch_size: int
    missing: str = ""


@dataclass(frozen=True)
class _Load:
    """What an arm puts through the model at stages that are taught in the same way.

    Attributes:
        rows: The heaviest micro-batch.
        settings: Of its stage.
        padded_tokens: Of all micro-batches.
        steps: Of all these stages.
    """

    rows: tuple[Encoded, ...]
    settings: Settings
    padded_tokens: int
    steps: int

    @property
    def tokens(self) -> int:
        """Of the heaviest micro-batch, padding included."""
        return len(self.rows) * max(len(row) for row in self.rows)

    def __add__(self, other: _Load) -> _Load:
        heavier = max(self, other, key=lambda one: one.tokens)
        padded, steps = self.padded_tokens + other.padded_tokens, self.steps + other.steps
        return replace(heavier, padded_tokens=padded, steps=steps)


class Costs:
    """Predicts the cost of a plan's arms on a device.

    Made before anything else that takes memory, since on a CPU what the process holds already
    counts.

    Args:
        plan: The plan.
        device: A name that `named_device` knows; None for this machine.

    Raises:
        InputError: There is no such device; with the nearest.
    """

    def __init__(self, plan: Plan, device: str | None = None) -> None:
        self.plan = plan
        self._named = named_device(device) if device else None
        self.kind = self._named.kind if self._named else default_device()
        self.dtype = choose_dtype(plan.experiment.model.dtype, self.kind)
        if plan.quantization is not None:
            bitsandbytes()  # 44 MiB of code, which a run has resident
        self._process = process_bytes() if self.kind == "cpu" else 0
        self._batches: dict[tuple[int, ...], Batch] = {}
        self._rehearsed: dict[Any, Rehearsed] = {}
        self._plans: dict[str, Plan] = {}

    @cached_property
    def can_checkpoint(self) -> bool:
        """Whether the model has layers that `training.activation_checkpointing` would reach."""
        spec, plan = self.plan.experiment.model, self.plan
        config = load_config(plan.model, spec.revision, spec.trust_remote_code)
        return bool(checkpointable(build_skeleton(config), plan.anatomy, ()))

    def device(self, dtype: torch.dtype | None = None) -> Device:
        """What is planned for; of this machine, the speed in `dtype` is measured."""
        return self._named or this_machine(self.kind, dtype or self.dtype)

    @property
    def how(self) -> str:
        """What the times rest on, in words."""
        if self.device().measured:
            return "speeds measured on it now"
        return f"{UTILISATION:.0%} of its peak in products, its bandwidth elsewhere"

    def of(self, arm: ArmPlan, choice: Choice | None = None) -> ArmCost:
        """The cost of an arm, as it is or chosen otherwise.

        Scoring, probes, drift budgets, `kl-anchor` and kept image features are not counted.
        """
        choice = choice or Choice(self.dtype)
        costs = [self._of(arm, load, choice) for load in self._loads(arm, choice)]
        seconds = [cost.seconds for cost in costs if cost.seconds is not None]
        whole = sum(seconds) if len(seconds) == len(costs) else None
        return replace(max(costs, key=lambda cost: cost.peak), seconds=whole)

    def _of(self, arm: ArmPlan, load: _Load, choice: Choice) -> ArmCost:
        batch, dtype = self._batch(load.rows), choice.dtype
        try:
            done = self._rehearse(arm, load, batch, choice)
        # Classes that look at what they compute fail in as many ways as there are to look.
        except Exception as error:
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            return self._weights_alone(arm, load, choice, why)
        device, padded = self.device(dtype), batch.inputs["input_ids"].numel()
        times = load.padded_tokens / padded
        once = device.seconds(done.of_batch, dtype)
        each = device.seconds(done.of_step, dtype)
        if load.settings.offload_optimizer:
            each += _seconds_on_host(arm.trained_numel, load.settings, dtype)
        peak, parts = self._memory(arm, done, batch)
        return ArmCost(peak, parts, times * once + load.steps * each, len(load.rows))

    def fits(self, cost: ArmCost) -> bool:
        """Whether the device holds that."""
        return cost.peak <= self.device().memory

    # -- memory ------------------------------------------------------------------------------------

    def _memory(self, arm: ArmPlan, done: Rehearsed, batch: Batch) -> tuple[int, dict[str, int]]:
        found = done.memory.at_peak()
        parts = {kind: found[kind] for kind in KINDS if found.get(kind)}
        extra = _EWC_BYTES * arm.trained_numel if arm.spec.method.ewc else 0
        if extra:
            parts["methods"] = parts.get("methods", 0) + extra
        if self.kind != "cpu":
            peak = extra + peak_on_gpu(done.memory)
        else:
            kept = self._kept(batch)
            parts |= {"kept_batches": kept} if kept else {}
            parts["process"] = self._process
            peak = extra + kept + peak_on_cpu([*self._before(arm), done.memory], self._process)
        return peak, parts | {"allocator": peak - sum(parts.values())}

    def _before(self, arm: ArmPlan) -> Iterator[Rehearsal]:
        """What the arms before this one hold: a run teaches them in one process."""
        names = [one.name for one in self.plan.arms]
        for earlier in self.plan.arms[: names.index(arm.name)]:
            for load in self._loads(earlier, Choice(self.dtype)):
                with suppress(Exception):  # told with that arm
                    batch = self._batch(load.rows)
                    yield self._rehearse(earlier, load, batch, Choice(self.dtype)).memory

    def _weights_alone(self, arm: ArmPlan, load: _Load, choice: Choice, why: str) -> ArmCost:
        """What is known without a step: all that does not depend on the data."""
        trained, whole, dtype = arm.trained_numel, arm.selection.total_numel, choice.dtype
        away = load.settings.offload_optimizer
        parts = {
            "weights": weight_bytes(whole, dtype, self._based(choice).quantization),
            "masters": 0 if away or dtype == torch.float32 else _FP32 * trained,
            "gradients": (dtype.itemsize if away else _FP32) * trained,
            "optimiser": 0 if away else round(state_bytes(load.settings.optim) * trained),
            "process": self._process,
        }
        known = {kind: size for kind, size in parts.items() if size}
        return ArmCost(sum(known.values()), known, None, len(load.rows), why)

    def _kept(self, batch: Batch) -> int:
        """Prompts of tasks that are kept as batches once they were scored (`data.batches`)."""
        if not self.plan.experiment.evaluate:
            return 0
        images = sum(len(row.example.images) for row in batch.rows)
        bytes_of = sum(one.nbytes for name, one in batch.inputs.items() if one.is_floating_point())
        each = bytes_of / images if images else 0.0
        tasks = [one.prepared for one in self.plan.tasks if isinstance(one.prepared, PreparedTask)]
        shown = [sum(len(example.images) for example in task.examples) for task in tasks]
        return round(sum(min(KEPT_BYTES, each * number) for number in shown))

    # -- what is rehearsed -------------------------------------------------------------------------

    def _based(self, choice: Choice) -> Plan:
        """The plan, on the base that is chosen."""
        kind = choice.quantization
        if kind is None:
            return self.plan
        if kind not in self._plans:
            packed = planned_quantization(self.plan, kind)
            self._plans[kind] = replace(self.plan, quantization=packed)
        return self._plans[kind]

    def _rehearse(self, arm: ArmPlan, load: _Load, batch: Batch, choice: Choice) -> Rehearsed:
        waits = load.settings.micro_batch_size < load.settings.batch_size
        method, how = arm.spec.method.model_dump_json(), _way_of_teaching(load.settings)
        based = choice.dtype, choice.quantization
        key = (arm.spec.terms, arm.spec.keep, method, id(batch), based, waits, how)
        if key not in self._rehearsed:
            plan = self._based(choice)
            self._rehearsed[key] = rehearse(plan, arm, batch, load.settings, choice.dtype)
        return self._rehearsed[key]

    def _batch(self, rows: Sequence[Encoded]) -> Batch:
        key = tuple(id(row) for row in rows)
        if key not in self._batches:
            self._batches[key] = collate(rows, self.plan.processing, padding_side="right")
        return self._batches[key]

    def _loads(self, arm: ArmPlan, choice: Choice) -> list[_Load]:
        """One for each way of teaching among the stages."""
        found: dict[object, _Load] = {}
        for stage in self.plan.stages:
            settings = self._settings(arm, stage, choice)
            own = self._load(arm, stage, settings)
            how = _way_of_teaching(settings)
            found[how] = found[how] + own if how in found else own
        return list(found.values())

    def _load(self, arm: ArmPlan, stage: StagePlan, settings: Settings) -> _Load:
        one_each = [
            _Load(rows, settings, len(rows) * max(len(row) for row in rows), 0)
            for rows in self._micro_batches(arm, stage, settings)
        ]
        heaviest = max(one_each, key=lambda one: one.padded_tokens)
        padded = sum(one.padded_tokens for one in one_each)
        return replace(heaviest, padded_tokens=padded, steps=settings.steps)

    def _settings(self, arm: ArmPlan, stage: StagePlan, choice: Choice) -> Settings:
        settings = self.plan.settings(arm, stage)
        size = min(choice.micro_batch_size or settings.micro_batch_size, settings.batch_size)
        checkpoints = choice.activation_checkpointing or settings.activation_checkpointing
        offloaded = choice.offload_optimizer or settings.offload_optimizer
        return replace(
            settings,
            micro_batch_size=size,
            activation_checkpointing=checkpoints,
            optim=choice.optim or settings.optim,
            # On a CPU there is no other memory to go to.
            offload_optimizer=offloaded and self.kind != "cpu",
        )

    def _micro_batches(
        self, arm: ArmPlan, stage: StagePlan, settings: Settings
    ) -> Iterator[tuple[Encoded, ...]]:
        rows, size = self.plan.rows(arm, stage), settings.micro_batch_size
        for batch in self.plan.order(arm, stage, settings):
            for start in range(0, len(batch), size):
                yield tuple(rows[index] for index in batch[start : start + size])


def _way_of_teaching(settings: Settings) -> tuple[object, ...]:
    """What of a stage's settings, besides its batches, changes what it takes."""
    return settings.activation_checkpointing, settings.optim, settings.offload_optimizer


def _seconds_on_host(trained: int, settings: Settings, dtype: torch.dtype) -> float:
    """Of a step that an offloaded optimiser takes: gradients come, weights go back."""
    times = -(-settings.batch_size // settings.micro_batch_size) + 1
    return trained * (times * dtype.itemsize / HOST_LINK + _ADAMW_TRAFFIC / HOST_BANDWIDTH)
