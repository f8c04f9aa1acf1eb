"""How an arm trains what it selects, where that is not by plain descent on the labels alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from narrowtune.experiment.drift import DriftMeasure
from narrowtune.experiment.scored import TaskSpec
from narrowtune.experiment.section import Section

Teacher = Literal["previous", "base"]


class LoraSpec(Section):
    """Low-rank adapters beside the selected matrices (arXiv 2106.09685), merged at the end.

    `rank_stabilised` scales by alpha / sqrt(rank) (arXiv 2312.03732); `dora` learns the magnitude
    of each column apart (arXiv 2402.09353).
    """

    rank: int = Field(default=16, gt=0)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    rank_stabilised: bool = False
    dora: bool = False


class LwfSpec(Section):
    """Learning without forgetting (arXiv 1606.09282): the teacher's answers are distilled too.

    On exactly the supervised positions. The teacher is the model as the stage began (`previous`)
    or the untouched one (`base`). `cache` keeps what the teacher said of each sample for later
    epochs.
    """

    weight: float = Field(default=1.0, ge=0)
    temperature: float = Field(default=2.0, gt=0)
    teacher: Teacher = "previous"
    cache: bool = False


class MoeSpec(Section):
    """A mixture of two experts: each selected MLP, frozen, and a copy of it, behind a router.

    The copy trains what is selected. `top_k` experts answer a token, in training as in use.
    """

    top_k: Literal[1, 2] = 2


class WiseFtSpec(Section):
    """Interpolation between a stage's beginning and its end (arXiv 2109.01903).

    `alpha` is the share of the change that is kept; with `validation` tasks it is the one, of
    eleven from 0 to 1, at which their mean score is highest.
    """

    alpha: float | None = Field(default=None, ge=0, le=1)
    validation: tuple[TaskSpec, ...] = ()

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.alpha is None) == (not self.validation):
            raise ValueError("give either alpha, or validation tasks that pick it")
        return self


class ReplaySpec(Section):
    """Other samples among a stage's own: `ratio` of every batch, drawn by the seed.

    From the training files of earlier stages, or from `data`, a file of general samples.
    """

    ratio: float = Field(default=0.1, gt=0, lt=1)
    data: str | None = None


class KlAnchorSpec(Section):
    """KL to the base on prompts without labels: the base's own answers to `data` are held on to.

    `weight` is in nats of loss per nat of drift; the first `limit` rows of the file take turns.
    """

    data: str
    weight: float = Field(default=1.0, ge=0)
    measure: DriftMeasure = "kl"
    limit: int = Field(default=64, gt=0)
    max_new_tokens: int = Field(default=32, gt=0)


class L2SpSpec(Section):
    """Squared distance to the base's weights, times weight / 2 (arXiv 1802.01483, section 3)."""

    weight: float = Field(ge=0)


class EwcSpec(Section):
    """Elastic weight consolidation (arXiv 1612.00796): distance weighed by Fisher information.

    To the weights as the stage began, with the diagonal estimated there on `samples` rows of
    `data`, or of the earlier stages' training files.
    """

    weight: float = Field(ge=0)
    samples: int = Field(default=128, gt=0)
    data: str | None = None


class MethodSpec(Section):
    """The methods of an arm; several combine. A method's name alone will do where it has defaults.

    Written as `lora`, as `[lora, replay]` or as `{lora: {rank: 8}, replay: {ratio: 0.2}}`.
    """

    model_config = ConfigDict(populate_by_name=True)

    lora: LoraSpec | None = None
    lwf: LwfSpec | None = None
    moe: MoeSpec | None = None
    wise_ft: WiseFtSpec | None = Field(default=None, alias="wise-ft")
    replay: ReplaySpec | None = None
    kl_anchor: KlAnchorSpec | None = Field(default=None, alias="kl-anchor")
    l2_sp: L2SpSpec | None = Field(default=None, alias="l2-sp")
    ewc: EwcSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {given: {}}
        if isinstance(given, list | tuple) and all(isinstance(name, str) for name in given):
            return {name: {} for name in given}
        if isinstance(given, Mapping):
            return {name: {} if value is None else value for name, value in given.items()}
        return given

    @model_serializer(mode="wrap")
    def _only_asked(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without those that are not asked for: an empty value in a file asks for defaults."""
        return {name: value for name, value in dump(self).items() if value is not None}

    @model_validator(mode="after")
    def _combine(self) -> Self:
        held = [name for name, one in (("l2-sp", self.l2_sp), ("ewc", self.ewc)) if one]
        if self.lora and self.moe:
            raise ValueError("lora and moe do not combine: each trains something of its own")
        if self.lora and held:
            raise ValueError(
                f"lora and {held[0]} do not combine: {held[0]} holds back the selected weights, "
                "and lora leaves these alone and trains adapters"
            )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The methods asked for, as an experiment writes them."""
        return tuple(
            field.alias or name
            for name, field in type(self).model_fields.items()
            if getattr(self, name) is not None
        )

    @property
    def files(self) -> tuple[str, ...]:
        """The data files that they read."""
        sources = (self.replay, self.kl_anchor, self.ewc)
        own = [one.data for one in sources if one is not None and one.data is not None]
        return (*own, *(task.test for task in (self.wise_ft.validation if self.wise_ft else ())))
