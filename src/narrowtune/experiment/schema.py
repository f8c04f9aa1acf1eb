"""The experiment: all that can change a result, and nothing else.

Every class is frozen and refuses unknown keys, so a typo is an error and never a default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from narrowtune.errors import InputError
from narrowtune.experiment.drift import DriftSpec, ProbeSpec
from narrowtune.experiment.repeats import Replicate, all_orders, wrong_orders, wrong_seeds
from narrowtune.experiment.section import Section

MetricName = Literal[
    "exact", "option", "number", "clock", "yes_no", "vqa", "anls", "relaxed", "f1", "bleu"
]
Scoring = Literal["generate", "likelihood", "likelihood-sum"]
Seed = Annotated[int, Field(lt=2**31)]
OverlapKind = Literal["images", "questions"]
Name = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", description="Letters, digits, _ . + -")


class ModelSpec(Section):
    """Which model is taught: a bundled name, a local folder or a hub id with its commit.

    `trust_remote_code` lets Python code that comes with the model run.
    """

    id: str
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    trust_remote_code: bool = False


class Scored(Section):
    """How something is answered and how its answers are judged.

    `allow_overlap` names what its test may share with any training: `images`, `questions`, both
    as a list or as `true`. Unless it does, a test that shares them is refused.
    """

    name: str = Name
    metric: MetricName = "exact"
    scoring: Scoring = "generate"
    limit: int | None = Field(default=None, gt=0)
    max_new_tokens: int = Field(default=32, gt=0)
    images: str | None = None
    allow_overlap: tuple[OverlapKind, ...] = ()

    @field_validator("allow_overlap", mode="before")
    @classmethod
    def _kinds(cls, given: Any) -> Any:
        if isinstance(given, bool):
            return get_args(OverlapKind) if given else ()
        return (given,) if isinstance(given, str) else given


class TaskSpec(Scored):
    """One held-out ability that is scored: a test file and how to read its answers."""

    test: str

    @property
    def source(self) -> str:
        """Where its samples come from: the test file."""
        return self.test


class HarnessSpec(Section):
    """A held-out task that a public harness runs and judges; named after it unless told otherwise.

    `metric` is one of the task's own. `include_path` is a folder of task files in the harness's
    format, looked through first. `chat_template` is for lm-eval; lmms-eval always uses it.
    """

    harness: Literal["lm-eval", "lmms-eval"]
    task: str
    name: str = Name
    metric: str | None = None
    limit: int | None = Field(default=None, gt=0)
    num_fewshot: int | None = Field(default=None, ge=0)
    chat_template: bool = False
    max_new_tokens: int | None = Field(default=None, gt=0)
    include_path: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and "name" not in given:
            task = str(given.get("task", "task"))
            return {**given, "name": re.sub(r"[^A-Za-z0-9_.+-]+", "-", task)}
        return given

    @property
    def source(self) -> str:
        """Where its samples come from: the harness and its task; the name too if it has its own."""
        plain = f"{self.harness}:{self.task}"
        return plain if self.name == self.task else f"{plain} as {self.name}"


def _kind(given: Any) -> str:
    """Which kind of held-out task an entry is."""
    asked = isinstance(given, Mapping) and "harness" in given
    return "HarnessSpec" if asked or isinstance(given, HarnessSpec) else "TaskSpec"


HeldOut = Annotated[
    Annotated[TaskSpec, Tag("TaskSpec")] | Annotated[HarnessSpec, Tag("HarnessSpec")],
    Discriminator(_kind),
]


class TrainingOverrides(Section):
    """The training keys that one stage or one arm sets differently."""

    epochs: float | None = Field(default=None, gt=0)
    steps: int | None = Field(default=None, gt=0)
    batch_size: int | None = Field(default=None, gt=0)
    micro_batch_size: int | None = Field(default=None, gt=0)
    learning_rate: float | None = Field(default=None, ge=0)
    schedule: Literal["cosine", "linear", "constant"] | None = None
    warmup: float | None = Field(default=None, ge=0, le=1)
    weight_decay: float | None = Field(default=None, ge=0)
    max_grad_norm: float | None = Field(default=None, gt=0)


class StageSpec(Scored):
    """One skill being taught: its training file and, to score it, a test file."""

    train: str
    test: str | None = None
    train_limit: int | None = Field(default=None, gt=0)
    training: TrainingOverrides = TrainingOverrides()


class ArmSpec(Section):
    """One way of teaching; give `recipe` (a built-in name) or `train` (terms), not both.

    Its own `drift` budget replaces the experiment's.
    """

    name: str = Name
    recipe: str | None = None
    train: tuple[str, ...] | None = None
    keep: tuple[str, ...] = ()
    training: TrainingOverrides = TrainingOverrides()
    drift: DriftSpec | None = None

    @model_validator(mode="after")
    def _one_selection(self) -> Self:
        if (self.recipe is None) == (self.train is None):
            raise ValueError("give either 'recipe' (a built-in name) or 'train' (a list of terms)")
        return self

    @property
    def terms(self) -> tuple[str, ...]:
        """The terms this arm trains, a recipe name being a term."""
        return (self.recipe,) if self.recipe is not None else (self.train or ())


class TrainingSpec(Section):
    """How every arm is trained, unless a stage or an arm says otherwise.

    `steps`, when given, wins over `epochs`. `warmup` is the share of the steps, as in
    TrainingArguments' warmup_ratio.
    """

    epochs: float = Field(default=1.0, gt=0)
    steps: int | None = Field(default=None, gt=0)
    batch_size: int = Field(default=32, gt=0)
    micro_batch_size: int | None = Field(default=None, gt=0)
    learning_rate: float = Field(default=1e-5, ge=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(default=0.03, ge=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    max_length: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _micro_divides(self) -> Self:
        micro = self.micro_batch_size
        if micro is not None and self.batch_size % micro:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of micro_batch_size {micro}"
            )
        return self

    def merged(self, *overrides: TrainingOverrides) -> TrainingSpec:
        """This section with the given overrides laid over it, the last one on top.

        Raises:
            InputError: If the merged values contradict each other.
        """
        values = self.model_dump()
        for override in overrides:
            values.update(override.model_dump(exclude_none=True))
        try:
            return TrainingSpec(**values)
        except ValidationError as error:
            raise InputError([item["msg"] for item in error.errors()]) from error


class NoiseFloor(Section):
    """How the noise of scoring is measured: the base scored again, in batches of these sizes."""

    batch_sizes: tuple[Annotated[int, Field(gt=0)], ...] = Field(min_length=1)


class Experiment(Section):
    """Model x stages x arms x tasks: one YAML file.

    `orders` (`all`, or lists of stage names) and `seeds` repeat it: every order with every seed.
    Left out, the stages run once, as written, from `seed`.
    """

    model: ModelSpec
    seed: Seed = 0
    seeds: tuple[Seed, ...] = ()
    orders: Literal["all"] | tuple[tuple[str, ...], ...] = ()
    stages: tuple[StageSpec, ...] = Field(min_length=1)
    held_out: tuple[HeldOut, ...] = ()
    arms: tuple[ArmSpec, ...] = Field(min_length=1)
    training: TrainingSpec = TrainingSpec()
    evaluate: tuple[Literal["base", "after_stage"], ...] = ("base", "after_stage")
    noise_floor: NoiseFloor | None = None
    probes: tuple[ProbeSpec, ...] = ()
    drift: DriftSpec | None = None

    @model_validator(mode="after")
    def _distinct_names(self) -> Self:
        tasks = [spec.name for spec in (*self.stages, *self.held_out)]
        for kind, names in (("arm", [arm.name for arm in self.arms]), ("task", tasks)):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{kind} names must differ; used twice: {', '.join(twice)}")
            if "base" in names:
                raise ValueError(f"the {kind} name 'base' is taken: it means the untouched model")
        return self

    @field_validator("orders", mode="before")
    @classmethod
    def _orders_shape(cls, given: Any) -> Any:
        lists = isinstance(given, list | tuple) and all(
            isinstance(order, list | tuple) and all(isinstance(name, str) for name in order)
            for order in given
        )
        if given == "all" or lists:
            return given
        raise ValueError(f"give 'all', or lists of stage names as [[a, b], [b, a]], not {given!r}")

    @model_validator(mode="after")
    def _repeats(self) -> Self:
        names = [stage.name for stage in self.stages]
        problems = wrong_seeds(self.seeds, self.seed)
        if self.orders != "all":
            problems += wrong_orders(self.orders, names)
        if self.noise_floor and "base" not in self.evaluate:
            problems.append("noise_floor scores the base again: add base to evaluate")
        probes = [one.probe for one in self.probes]
        problems += [
            f"probe {name} is asked for twice" for name in {*probes} if probes.count(name) > 1
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def repeated(self) -> bool:
        """Whether it asks for several orders or seeds by name, if only for one of each."""
        return bool(self.orders or self.seeds)

    @property
    def replicates(self) -> tuple[Replicate, ...]:
        """Every order with every seed: all orders from the first seed, then from the next."""
        orders = all_orders([stage.name for stage in self.stages], self.orders)
        seeds = self.seeds or (self.seed,)
        return tuple(
            Replicate(number, order, seed)
            for seed in seeds
            for number, order in enumerate(orders, start=1)
        )

    def alone(self, replicate: Replicate) -> Experiment:
        """The experiment of one replicate: its stages in that order, from that seed, once."""
        stages = {stage.name: stage for stage in self.stages}
        return self.model_copy(
            update={
                "orders": (),
                "seeds": (),
                "seed": replicate.seed,
                "stages": tuple(stages[name] for name in replicate.order),
            }
        )
