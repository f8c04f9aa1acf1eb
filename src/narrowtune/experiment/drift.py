"""What an experiment asks about the output distribution: probes to read, a budget to keep."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from narrowtune.experiment.section import Section

ProbeName = Literal["kl", "answer_bias", "layers", "number_bias"]
DriftMeasure = Literal["kl", "reverse_kl"]
DriftAction = Literal["report", "stop", "interpolate", "penalise"]


class ProbeSpec(Section):
    """A look at the output distribution, at base and after every stage; its name alone will do.

    `kl`, `answer_bias` and `layers` read the held-out tasks' right answers, the first `limit` rows
    of each; `number_bias` lets the model caption the first `limit` images of the held-out tasks, or
    answers the prompts of `data`.

    `every` looks during training too: after every so many steps, or `log`: after steps 1, 10, 100
    and so on; and after a stage's last. On the first `rows_during` rows of each task (of all images
    together for `number_bias`), so that every 20 steps it costs little.
    """

    probe: ProbeName
    limit: int = Field(default=32, gt=0)
    data: str | None = None
    max_new_tokens: int = Field(default=256, gt=0)
    every: int | Literal["log"] | None = None
    rows_during: int = Field(default=4, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        return {"probe": given} if isinstance(given, str) else given

    @field_validator("every", mode="before")
    @classmethod
    def _interval(cls, given: Any) -> Any:
        steps = isinstance(given, int) and not isinstance(given, bool) and given > 0
        if given in (None, "log") or steps:
            return given
        raise ValueError(f"give a number of steps, 1 or more, or log, not {given!r}")

    @model_validator(mode="after")
    def _data_for_captions(self) -> Self:
        if self.data is not None and self.probe != "number_bias":
            raise ValueError(f"{self.probe} reads the held-out tasks; only number_bias takes data")
        return self


class DriftSpec(Section):
    """How far the output distribution may move from the base's, and what is done about it.

    Drift is `measure` in nats per answer token, the mean over the held-out tasks. The first `limit`
    rows of each steer the action; as many after them, which it never sees, show whether the
    budget holds. `report` only says so. `stop` ends a stage at the last look within the budget,
    looking every `every` steps. `interpolate` takes the largest share of what a stage changed that
    stays within. `penalise` anchors the model while it learns, as strongly as the budget needs.
    """

    budget: float = Field(gt=0)
    measure: DriftMeasure = "kl"
    action: DriftAction = "report"
    limit: int = Field(default=32, gt=0)
    every: int = Field(default=20, gt=0)
