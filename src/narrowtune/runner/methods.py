"""An arm's methods: read and checked with the plan, at work in every one of its stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from narrowtune.data.batches import Batches
from narrowtune.data.batching import Batch
from narrowtune.data.encoding import Encoded, encode, encode_prompt
from narrowtune.data.example import Message, TextPart
from narrowtune.delta import Line, kept
from narrowtune.errors import RunFailed
from narrowtune.experiment import LwfSpec, MethodSpec, WiseFtSpec
from narrowtune.models.generation import generate_answers
from narrowtune.models.lora import Adapters, Rank
from narrowtune.models.processing import Processing
from narrowtune.probes.anchor import Anchor
from narrowtune.probes.reference import Reference
from narrowtune.record import WISE_FT
from narrowtune.training import (
    AnswerAnchor,
    Distillation,
    Guard,
    Objective,
    Remembered,
    Swapped,
    WeightAnchor,
    fisher_diagonal,
    labels_alone,
)

if TYPE_CHECKING:
    from narrowtune.runner.plan import ArmPlan

Trained = Sequence[tuple[str, nn.Parameter]]
Row = dict[str, Any]
ToBatch = Callable[[Sequence[Encoded]], Batch]

SHARES = tuple(step / 10 for step in range(11))


@dataclass(frozen=True)
class BaseValues:
    """What the methods of an arm need of the untouched model.

    Attributes:
        weights: Of the trained parameters, by name, on the model's device.
        anchor: Texts that the base answered, which the arm is held to.
    """

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    anchor: Anchor | None = None

    @classmethod
    def of(
        cls, model: nn.Module, trained: Trained, arm: ArmPlan, processing: Processing
    ) -> BaseValues:
        """Look at a model that nothing has been taught yet."""
        method = arm.spec.method
        wanted = method.l2_sp or (method.lwf and method.lwf.teacher == "base")
        weights = {name: one.detach().clone() for name, one in trained} if wanted else {}
        return cls(weights, _own_answers(model, arm, processing) if method.kl_anchor else None)


@dataclass
class StageMethods:
    """The methods at one stage, on weights as the stage finds them; to be made before it begins.

    Args:
        arm: The arm, with what its methods read.
        trained: The selected parameters.
        base: What is known of the base.
        seed: Of the stage.

    Attributes:
        named: What the optimiser moves: the selected parameters, or adapters beside them.
        objective: What a micro-batch is learned by.
        guards: What pulls besides.
        rows: For the record, arm and stage left out.
    """

    arm: ArmPlan
    trained: Trained
    base: BaseValues
    seed: int
    named: Trained = field(init=False)
    objective: Objective = field(init=False, default=labels_alone)
    guards: list[Guard] = field(init=False, default_factory=list)
    rows: list[Row] = field(init=False, default_factory=list)
    _start: dict[str, Tensor] = field(init=False, default_factory=dict)
    _adapters: Adapters | None = field(init=False, default=None)

    @property
    def _spec(self) -> MethodSpec:
        return self.arm.spec.method

    def begin(self, model: nn.Module, earlier: Sequence[Encoded], to_batch: ToBatch) -> None:
        """Put adapters on, and look at what the stage starts from.

        Args:
            model: The model, in training mode.
            earlier: What earlier stages taught.
            to_batch: Makes a batch on the model's device.
        """
        if self._spec.wise_ft:
            self._start = kept(self.trained)
        self.named = self._adapted(model)
        self.objective = self._objective()
        self.guards = self._pulls(model, earlier, to_batch)

    def settle(self, model: nn.Module, adapters: Path | None, on: str) -> None:
        """Merge the adapters, and interpolate.

        Args:
            model: The model, taught.
            adapters: The folder that adapters are kept in; None in a process that writes nothing.
            on: Name of the model that the stage began from.
        """
        if self._adapters is not None:
            if adapters is not None:
                self._adapters.save(adapters, on)
            self._adapters.merge()
        if self._spec.wise_ft:
            self._interpolate(model, self._spec.wise_ft)

    def _adapted(self, model: nn.Module) -> Trained:
        if self._spec.lora is None:
            return self.trained
        shape = Rank(**self._spec.lora.model_dump())
        self._adapters = Adapters(model, self.arm.reads.adapted, shape, self.seed)
        return self._adapters.named

    def _objective(self) -> Objective:
        spec = self._spec.lwf
        if spec is None:
            return labels_alone
        cache = Remembered() if spec.cache else None
        return Distillation(self._teacher(spec), spec.weight, spec.temperature, cache)

    def _teacher(self, spec: LwfSpec) -> Swapped:
        now = [(one, one.detach().clone()) for _, one in self.named]
        if spec.teacher == "previous":
            return now
        base = [(one, self.base.weights[name]) for name, one in self.trained]
        # Adapters as they start add nothing: beside the base's weights they are the base.
        return base if self._adapters is None else [*now, *base]

    def _pulls(
        self, model: nn.Module, earlier: Sequence[Encoded], to_batch: ToBatch
    ) -> list[Guard]:
        pulls: list[Guard] = []
        if self._spec.l2_sp:
            pulls.append(WeightAnchor(self.base.weights, self._spec.l2_sp.weight))
        if self._spec.kl_anchor and self.base.anchor is not None:
            pulls.append(AnswerAnchor(self.base.anchor.drift, self._spec.kl_anchor.weight))
        if spec := self._spec.ewc:
            known = self.arm.reads.fisher or earlier
            drawn = Random(f"narrowtune fisher {self.seed}").sample(
                range(len(known)), min(spec.samples, len(known))
            )
            samples = [partial(to_batch, [known[place]]) for place in drawn]
            if samples and spec.weight:
                start = {name: one.detach().float().clone() for name, one in self.named}
                fisher = fisher_diagonal(model, self.named, samples)
                pulls.append(WeightAnchor(start, spec.weight, fisher))
        return pulls

    def _interpolate(self, model: nn.Module, spec: WiseFtSpec) -> None:
        line = Line(self._start, kept(self.trained))
        alpha = spec.alpha if spec.alpha is not None else self._best(model, line)
        line.put(self.trained, alpha)
        self.rows.append(_row("chosen", alpha, alpha))

    def _best(self, model: nn.Module, line: Line) -> float:
        """The share at which the validation tasks' mean is highest; of equals, the largest."""
        found: dict[float, float] = {}
        for alpha in SHARES:
            line.put(self.trained, alpha)
            results = [task.score(model) for task in self.arm.reads.validation]
            signed = [one.value if one.higher_is_better else -one.value for one in results]
            found[alpha] = sum(signed) / len(signed)
            self.rows.append(_row("tried", alpha, found[alpha]))
        return max(found, key=lambda alpha: (found[alpha], alpha))


def _row(part: str, alpha: float, value: float) -> Row:
    where = {"probe": WISE_FT, "task": "", "at": "all", "part": part, "alpha": alpha}
    return where | {"value": value, "unit": "", "n": 1, "stderr": None, "reason": ""}


def _own_answers(model: nn.Module, arm: ArmPlan, processing: Processing) -> Anchor:
    """The base's own answers to an arm's prompts, and what it expects in them.

    Raises:
        RunFailed: It answers none of them with a word.
    """
    spec, prompts = arm.spec.method.kl_anchor, arm.reads.prompts
    assert spec is not None
    asked = Batches([encode_prompt(row, processing) for row in prompts], processing, 16, "left")
    said = generate_answers(model, processing, asked, spec.max_new_tokens)
    answered = [
        replace(row, messages=(*row.prompt, Message("assistant", (TextPart(one.text),))))
        for row, one in zip(prompts, said, strict=True)
        if one.text
    ]
    if not answered:
        raise RunFailed(f"kl-anchor: the base answers none of the prompts of {spec.data}")
    rows = [encode(row, processing) for row in answered]
    reference = Reference("kl-anchor", rows, processing)
    reference.remember(model)
    return Anchor([(reference, range(len(rows)))], spec.measure)
