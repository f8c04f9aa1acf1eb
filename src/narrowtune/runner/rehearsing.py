"""One optimiser step of an arm, by the code that will train it, on tensors without data."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from narrowtune.anatomy.windows import plain_tensors
from narrowtune.data.batching import Batch
from narrowtune.engine.rehearsal import Rehearsal, hollow
from narrowtune.models.quantized_linear import quantize_skeleton
from narrowtune.models.skeleton import build_skeleton, load_config
from narrowtune.models.supervised import output_head
from narrowtune.runner.arm import trained_in
from narrowtune.runner.methods import BaseValues, StageMethods
from narrowtune.runner.plan import ArmPlan, Plan
from narrowtune.runner.sparing import spared
from narrowtune.training import Settings
from narrowtune.training.guard import Guard
from narrowtune.training.optimisers import optimiser_for
from narrowtune.training.weights import TrainedWeights

Work = tuple[tuple[int, int], ...]
Trained = Sequence[tuple[str, nn.Parameter]]


@dataclass(frozen=True)
class Rehearsed:
    """What a step took.

    Attributes:
        memory: From moment to moment; its kinds are weights, masters (fp32 copies of weights in
            bfloat16), gradients, optimiser, methods (what they keep), activations and logits.
        of_batch: Operations of a micro-batch, forward and backward, as `Rehearsal.work` has them.
        of_step: What comes once a step: penalties, clipping, the optimiser.
    """

    memory: Rehearsal
    of_batch: Work
    of_step: Work


def rehearse(
    plan: Plan, arm: ArmPlan, batch: Batch, settings: Settings, dtype: torch.dtype
) -> Rehearsed:
    """A step of the arm with this micro-batch, as the steps after the first one are.

    Args:
        plan: The plan.
        arm: What is trained, and how. What `ewc` and `kl-anchor` add is not rehearsed.
        batch: The micro-batch, on the CPU.
        settings: With more samples a batch than a micro-batch, gradients wait for the others. An
            offloaded optimiser lies elsewhere, with all it needs, and is not rehearsed.
        dtype: What the model computes in.
    """
    with torch.random.fork_rng(devices=()), warnings.catch_warnings():
        # Copying a module asks where its tensors lie, and these lie nowhere.
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        return _step(plan, arm, batch, settings, dtype)


def _step(
    plan: Plan, arm: ArmPlan, batch: Batch, settings: Settings, dtype: torch.dtype
) -> Rehearsed:
    model, trained = _hollow_arm(plan, arm, dtype)
    memory = Rehearsal(_vocabulary(model), recomputes=settings.activation_checkpointing)
    with memory.watch():
        methods = _methods(plan, arm, model, trained, settings)
        memory.hold_all("methods")
        named = _emptied(model, methods.named)
        memory.hold(_held_by(model), "weights")
        memory.hold(batch.inputs.values(), "activations")
        moved = None if settings.offload_optimizer else _Moved(named, settings, memory)
        memory.begin()
        asked = settings.activation_checkpointing
        with spared(model, plan.anatomy, arm.towers, checkpointing=asked):
            loss, told = methods.objective(model, batch)
        _backward(loss / settings.batch_size, named, memory)
        del loss, told
        if moved is not None:
            moved.collect()
        split = len(memory.work)
        if moved is not None:
            moved.step(methods.guards, model)
    return Rehearsed(memory, tuple(memory.work[:split]), tuple(memory.work[split:]))


def _hollow_arm(plan: Plan, arm: ArmPlan, dtype: torch.dtype) -> tuple[nn.Module, Trained]:
    """The arm's model without data, in training mode, and what is trained in it."""
    spec = plan.experiment.model
    config = copy.deepcopy(load_config(plan.model, spec.revision, spec.trust_remote_code))
    config.dtype = dtype
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    skeleton = build_skeleton(config)
    if plan.quantization is not None:
        quantize_skeleton(skeleton, plan.quantization, dtype)
    model = hollow(skeleton, mode).train()
    _, trained = trained_in(model, arm)
    return model, _emptied(model, trained)


def _emptied(model: nn.Module, trained: Trained) -> Trained:
    """What is trained, without data where it was added with some, as routers and adapters are."""
    fakes = (one for one in model.parameters() if isinstance(one, FakeTensor))
    hollow(model, next(fakes).fake_mode)
    now = dict(model.named_parameters())
    return [(name, now.get(name, one)) for name, one in trained]


def _methods(
    plan: Plan, arm: ArmPlan, model: nn.Module, trained: Trained, settings: Settings
) -> StageMethods:
    """The arm's methods at their work, but those that need what only data tells."""
    method = arm.spec.method.model_copy(update={"ewc": None, "kl_anchor": None})
    simple = replace(arm, spec=arm.spec.model_copy(update={"method": method}))
    base = BaseValues.of(model, trained, simple, plan.processing)
    methods = StageMethods(simple, trained, base, settings.seed)
    methods.begin(model, (), lambda rows: _no_batch())
    return methods


def _no_batch() -> Any:
    raise AssertionError("only ewc asks for batches, and it is not rehearsed")


def _vocabulary(model: nn.Module) -> int:
    weight: Any = output_head(model).weight
    return int(weight.shape[0])


def _held_by(model: nn.Module) -> Iterable[Tensor]:
    """All tensors of a model, windows' wholes and entries both."""
    yield from model.parameters()
    yield from (tensor for _, tensor in plain_tensors(model))


class _Moved:
    """What the optimiser moves, and what lies beside the model for that, the moments made."""

    def __init__(self, named: Trained, settings: Settings, memory: Rehearsal) -> None:
        self._named, self._memory, self._most = named, memory, settings.max_grad_norm
        self.weights = weights = TrainedWeights(named)
        own = {id(one) for _, one in named}
        memory.hold((one for one in weights.masters if id(one) not in own), "masters")
        self._optimiser = optimiser_for(
            weights, settings.optim, settings.learning_rate, settings.weight_decay
        )
        self._first_step()
        if settings.micro_batch_size < settings.batch_size:  # gradients of those before this one
            self._zero_gradients()
            self._hold_gradients()

    def collect(self) -> None:
        """Take a micro-batch's gradients over."""
        self.weights.collect()
        self._hold_gradients()

    def step(self, guards: Iterable[Guard], model: nn.Module) -> None:
        """What comes once a step: penalties, clipping, the optimiser."""
        for guard in guards:
            guard.begin(self.weights)
            if (pull := guard.pull(0, model)) is not None:
                _backward(pull, self._named, self._memory)
                self.collect()
        nn.utils.clip_grad_norm_(self.weights.masters, self._most, foreach=True)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self.weights.write_back()

    def _first_step(self) -> None:
        self._zero_gradients()
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        kept = (one for moments in self._optimiser.state.values() for one in moments.values())
        self._memory.hold((one for one in kept if isinstance(one, Tensor)), "optimiser")

    def _zero_gradients(self) -> None:
        for master in self.weights.masters:
            master.grad = torch.zeros_like(master)

    def _hold_gradients(self) -> None:
        found = (one.grad for one in self.weights.masters if one.grad is not None)
        self._memory.hold(found, "gradients")


def _backward(loss: Tensor, named: Trained, memory: Rehearsal) -> None:
    if loss.requires_grad:
        torch.autograd.backward(loss)
        memory.hold((one.grad for _, one in named if one.grad is not None), "gradients")
