"""What is scored: a skill's own test, a held-out task of the user's, a public harness's task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from narrowtune.experiment.coherence import harness_name
from narrowtune.experiment.section import Section

MetricName = Literal[
    "exact", "option", "number", "clock", "yes_no", "vqa", "anls", "relaxed", "f1", "bleu"
]
Scoring = Literal["generate", "likelihood", "likelihood-sum"]
OverlapKind = Literal["images", "questions"]
Name = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", description="Letters, digits, _ . + -")


class Tested(Section):
    """What is asked apart from training.

    `allow_overlap` names what its test may share with any training: `images`, `questions`, both
    as a list or as `true`. Unless it does, a test that shares them is refused.
    """

    allow_overlap: tuple[OverlapKind, ...] = ()

    @field_validator("allow_overlap", mode="before")
    @classmethod
    def _kinds(cls, given: Any) -> Any:
        if isinstance(given, bool):
            return get_args(OverlapKind) if given else ()
        return (given,) if isinstance(given, str) else given


class Scored(Tested):
    """How something is answered and how its answers are judged."""

    name: str = Name
    metric: MetricName = "exact"
    scoring: Scoring = "generate"
    limit: int | None = Field(default=None, gt=0)
    max_new_tokens: int = Field(default=32, gt=0)
    images: str | None = None


class TaskSpec(Scored):
    """One held-out ability that is scored: a test file and how to read its answers."""

    test: str

    @property
    def source(self) -> str:
        """Where its samples come from: the test file."""
        return self.test


class HarnessSpec(Tested):
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
            return {**given, "name": harness_name(given)}
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
