"""The corrections that `explain` tries on a task, made ready without any labels of the scored rows.

Each task's test file is split: calibration rows estimate and show, the others are scored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from narrowtune.data.encoding import encode
from narrowtune.data.example import Example, Message, TextPart
from narrowtune.errors import InputError
from narrowtune.evaluation import PreparedTask, TaskResult, score
from narrowtune.evaluation.hints import (
    answer_space,
    format_instruction,
    split_clusters,
    with_examples,
    with_instruction,
    worked_examples,
)
from narrowtune.models.correcting import AnswerSpace
from narrowtune.probes.classes import TokenClass
from narrowtune.probes.offsets import token_offsets
from narrowtune.probes.reference import Reference
from narrowtune.record.explanation import CORRECTIONS, Corrected, CorrectionName

Scorer = Callable[[nn.Module], TaskResult]


@dataclass(frozen=True)
class Ways:
    """A task and all the ways in which it is answered.

    Attributes:
        about: How, in words.
        plain: The scored rows, answered as they are.
        corrected: By correction, the scored rows answered with it.
    """

    about: Corrected
    plain: PreparedTask
    corrected: Mapping[str, Scorer]


@dataclass(frozen=True)
class Trial:
    """What is asked: which corrections, and with how many calibration rows at most."""

    wanted: Sequence[CorrectionName] = CORRECTIONS
    calibration: int = 32


def prepare_ways(
    name: str,
    task: PreparedTask,
    answers: Mapping[str, str],
    classes: Sequence[TokenClass],
    trial: Trial,
) -> Ways:
    """Split a task and make its corrections ready.

    Args:
        name: The task's name.
        task: The whole task.
        answers: What the base answered, by sample id; the offsets are fitted where it did.
        classes: Token classes without common tokens, whose offsets are fitted.
        trial: What is asked.

    Raises:
        InputError: The task has too few independent rows to be split.
    """
    first, others = split_clusters(task.clusters, trial.calibration)
    if not first:
        alone = "it has one row" if len(task.examples) == 1 else "its rows share what they show"
        raise InputError(f"{alone}, so none can be set apart")
    calibration = tuple(task.examples[place] for place in first)
    scored = [task.examples[place] for place in others]
    corrected: dict[str, Scorer] = {}
    unavailable: dict[CorrectionName, str] = {}
    told: dict[CorrectionName, str] = {}
    plain = task.again(scored)
    for correction in trial.wanted:
        try:
            if correction == "offsets":
                made = _offsets(name, plain, _as_answered(calibration, answers), classes)
            else:
                made = _MAKERS[correction](task, plain, calibration)
        except InputError as error:
            unavailable[correction] = error.problems[0]
            continue
        corrected[correction], told[correction] = made
    about = Corrected(
        task=name,
        version=task.version,
        calibration=len(first),
        scored=len(scored),
        yes_no={one.lower() for one in answer_space(task.examples)} == {"yes", "no"},
        told=told,
        unavailable=unavailable,
    )
    return Ways(about, plain, corrected)


@dataclass
class _WithOffsets:
    """Answers with class offsets fitted anew to every model; the first one seen is the base."""

    plain: PreparedTask
    reference: Reference
    classes: Sequence[TokenClass]
    _base: Mapping[str, Tensor] | None = None

    def __call__(self, model: nn.Module) -> TaskResult:
        if self._base is None:
            self.reference.remember(model)
        masses = self.reference.compare(model, self.classes)[0].masses
        if self._base is None:
            self._base = masses
        places, size = self.reference.positions, self.reference.vocabulary
        fitted = token_offsets(self.classes, places, (self._base, masses), size)
        return score(model, self.plain, fitted)


def _offsets(
    name: str, plain: PreparedTask, rows: Sequence[Example], classes: Sequence[TokenClass]
) -> tuple[Scorer, str]:
    if not rows:
        raise InputError("the base answered no calibration row with a word")
    encoded = [encode(row, plain.processing) for row in rows]
    reference = Reference(name, encoded, plain.processing, plain.batches.batch_size)
    told = f"{len(classes)} classes of tokens, fitted on {len(rows)} prompts"
    return _WithOffsets(plain, reference, classes), told


def _restricted(
    task: PreparedTask, plain: PreparedTask, calibration: Sequence[Example]
) -> tuple[Scorer, str]:
    if plain.scoring != "generate":
        raise InputError("its choices are all that can be answered as it is")
    answers = answer_space(task.examples)
    if len(answers) < 2:
        raise InputError(f"{answers[0]!r} is right in every row: nothing is left to choose")
    posed = [_answered(calibration[0], answer) for answer in answers]
    encoded = [encode(one, plain.processing) for one in posed]
    space = AnswerSpace(one.input_ids[one.prompt_length :] for one in encoded)
    roomy = plain.again(max_new_tokens=max(space.longest, plain.max_new_tokens))
    return lambda model: score(model, roomy, space), f"one of {len(answers)} answers"


def _instructed(
    task: PreparedTask, plain: PreparedTask, calibration: Sequence[Example]
) -> tuple[Scorer, str]:
    line = format_instruction(plain.metric.name, calibration)
    asked = plain.again([with_instruction(row, line) for row in plain.examples])
    return lambda model: score(model, asked), line


def _shown(
    task: PreparedTask, plain: PreparedTask, calibration: Sequence[Example]
) -> tuple[Scorer, str]:
    shown = worked_examples(calibration)
    asked = plain.again([with_examples(row, shown) for row in plain.examples])
    return lambda model: score(model, asked), "; ".join(row.answer for row in shown)


_MAKERS = {"answer-space": _restricted, "instruction": _instructed, "examples": _shown}


def _as_answered(rows: Sequence[Example], answers: Mapping[str, str]) -> list[Example]:
    """The rows with the base's own answers in the place of the right ones; blank ones left out."""
    return [_answered(row, answers[row.id]) for row in rows if answers.get(row.id, "").strip()]


def _answered(row: Example, answer: str) -> Example:
    turn = Message("assistant", (TextPart(answer),))
    return replace(row, messages=(*row.prompt, turn))
