"""The experiment: all that can change a result, and nothing else.

Every class is frozen and refuses unknown keys, so a typo is an error and never a default.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from narrowtune.errors import InputError
from narrowtune.experiment.coherence import contradictions
from narrowtune.experiment.drift import DriftSpec, ProbeSpec
from narrowtune.experiment.methods import MethodSpec
from narrowtune.experiment.repeats import Replicate, all_orders, twice
from narrowtune.experiment.scored import HeldOut, Scored
from narrowtune.experiment.section import Section
from narrowtune.experiment.sweep import cells_of, keys_to_sweep, wrong_cells, wrong_sweep

Seed = Annotated[int, Field(lt=2**31)]
_ARM = r"^[A-Za-z0-9][A-Za-z0-9_.+@=,-]*$"
ArmName = Field(pattern=_ARM, description="Letters, digits, _ . + - and @ = , as cells have them")
OfName = Field(default=None, pattern=_ARM, description="The arm that it is a cell of")


class ModelSpec(Section):
    """Which model is taught: a bundled name, a local folder or a hub id with its commit.

    `trust_remote_code` lets Python code that comes with the model run. `encode_images` says what a
    frozen image encoder is shown at once: the images of a batch, or those of one sample. Alone,
    what it gives for a sample is the same in every batch, so that later epochs find it kept;
    `auto` does that where samples come again and images are large enough to lose nothing by it.

    `quantization: nf4` keeps matrices of linear layers that no arm trains in 4 bits, which changes
    the base that all arms start from; `unquantized` names terms that stay as they are besides.
    """

    id: str
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    quantization: Literal["none", "nf4"] = "none"
    unquantized: tuple[str, ...] = ()
    encode_images: Literal["auto", "together", "alone"] = "auto"
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _something_is_quantised(self) -> Self:
        if self.unquantized and self.quantization == "none":
            raise ValueError(
                "'unquantized' names what a quantised base leaves as it is, and 'quantization' is "
                "none: set it, or leave 'unquantized' out"
            )
        return self


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
    optim: Literal["adamw", "adamw_8bit"] | None = None
    max_grad_norm: float | None = Field(default=None, gt=0)
    share_images: bool | None = None
    padding_free: bool | None = None
    activation_checkpointing: bool | None = None
    offload_optimizer: bool | None = None
    torch_compile: bool | None = None


class StageSpec(Scored):
    """One skill being taught: its training file and, to score it, a test file."""

    train: str
    test: str | None = None
    train_limit: int | None = Field(default=None, gt=0)
    training: TrainingOverrides = TrainingOverrides()


class ArmSpec(Section):
    """One way of teaching; give `recipe` (a built-in name) or `train` (terms), not both.

    `method` is how it trains them, where not by plain descent. Its own `drift` budget replaces the
    experiment's.

    `sweep` makes it a family: an arm of its own, a cell, for every combination of the values given
    for training keys (`learning_rate`) and for keys of methods (`lora.rank`). `of` names the family
    that an arm belongs to; a cell that diverges is recorded, and the run goes on.
    """

    name: str = ArmName
    of: str | None = OfName
    recipe: str | None = None
    train: tuple[str, ...] | None = None
    keep: tuple[str, ...] = ()
    training: TrainingOverrides = TrainingOverrides()
    method: MethodSpec = MethodSpec()
    drift: DriftSpec | None = None
    sweep: dict[str, tuple[Any, ...]] = Field(default={})

    @model_validator(mode="after")
    def _one_selection(self) -> Self:
        if (self.recipe is None) == (self.train is None):
            raise ValueError("give either 'recipe' (a built-in name) or 'train' (a list of terms)")
        return self

    @property
    def terms(self) -> tuple[str, ...]:
        """The terms this arm trains, a recipe name being a term."""
        return (self.recipe,) if self.recipe is not None else (self.train or ())

    @model_validator(mode="after")
    def _cells_are_arms(self) -> Self:
        if not self.sweep:
            return self
        known, plain = keys_to_sweep(TrainingOverrides, MethodSpec), self._plain()
        problems = wrong_sweep(self.sweep, known, plain)
        problems = problems or wrong_cells(cells_of(plain, self.sweep), ArmSpec)
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def family(self) -> str:
        """What it is compared as: the sweep that it is a cell of, or itself."""
        return self.of or self.name

    @property
    def cells(self) -> tuple[ArmSpec, ...]:
        """The arms that its sweep stands for; itself where it has none."""
        if not self.sweep:
            return (self,)
        return tuple(ArmSpec.model_validate(one) for one in cells_of(self._plain(), self.sweep))

    def _plain(self) -> dict[str, Any]:
        """What it was given, but the sweep."""
        return self.model_dump(exclude_unset=True, by_alias=True, exclude={"sweep"})


class TrainingSpec(Section):
    """How every arm is trained, unless a stage or an arm says otherwise.

    `steps`, when given, wins over `epochs`. `warmup` is the share of the steps, as in
    TrainingArguments' warmup_ratio. `share_images` shuffles images instead of samples: the
    questions on one image share a step, in which it passes the model once. `padding_free` writes a
    batch of which a tenth or more would be padding as one sequence without any.
    `activation_checkpointing` makes decoder layers keep their input alone for the backward pass and
    compute the rest once more: no bit changes, memory falls, a step takes a quarter longer.
    `offload_optimizer` keeps the optimiser's moments, fp32 masters and gradients in the machine's
    memory instead of the GPU's, and takes the optimiser's step there.
    `torch_compile` compiles the decoder layers, which pays in long stages: the first steps wait.
    `optim: adamw_8bit` keeps the optimiser's moments in 8 bits, which changes what is learned.
    """

    epochs: float = Field(default=1.0, gt=0)
    steps: int | None = Field(default=None, gt=0)
    batch_size: int = Field(default=32, gt=0)
    micro_batch_size: int | None = Field(default=None, gt=0)
    learning_rate: float = Field(default=1e-5, ge=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(default=0.03, ge=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0)
    optim: Literal["adamw", "adamw_8bit"] = "adamw"
    max_grad_norm: float = Field(default=1.0, gt=0)
    share_images: bool = False
    padding_free: bool = True
    activation_checkpointing: bool = False
    offload_optimizer: bool = False
    torch_compile: bool = False
    max_length: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _micro_divides(self) -> Self:
        micro = self.micro_batch_size
        if micro is not None and self.batch_size % micro:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of micro_batch_size {micro}"
            )
        return self

    @model_validator(mode="after")
    def _moments_in_one_place(self) -> Self:
        if self.offload_optimizer and self.optim == "adamw_8bit":
            raise ValueError(
                "offload_optimizer takes the moments off the GPU, so that optim: adamw_8bit would "
                "round them for nothing: give one of the two"
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

    @field_validator("arms")
    @classmethod
    def _sweeps_are_cells(cls, given: tuple[ArmSpec, ...]) -> tuple[ArmSpec, ...]:
        names = [arm.name for arm in given]
        if twice(names) or "base" in names:
            return given  # refused with the other contradictions
        cells = tuple(cell for arm in given for cell in arm.cells)
        if taken := twice([cell.name for cell in cells]):
            raise ValueError(f"two cells of sweeps would be called {', '.join(sorted(taken))}")
        return cells

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if problems := contradictions(self.model_dump()):
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
