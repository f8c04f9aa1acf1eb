"""The corrections that `explain` tries on a task, made ready without any labels of the scored rows.

Each task's test file is split: calibration rows estimate and show, the others are scored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from narrowtune.data.encoding import Encoded, encode
from narrowtune.data.example import Example, Message, TextPart
from narrowtune.errors import InputError
from narrowtune.evaluation import PreparedTask, TaskResult, score
from narrowtune.evaluation.guessing import guesses
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
class Trial:
    """What is asked: which corrections, and with how many calibration rows at most."""

    wanted: Sequence[CorrectionName] = CORRECTIONS
    calibration: int = 32


@dataclass(frozen=True)
class Split:
    """A task with some rows set apart.

    Attributes:
        about: Its name and sizes; no correction is told of yet.
        whole: All of it.
        calibration: Rows that estimate and show.
        plain: The scored rows, answered as they are.
    """

    about: Corrected
    whole: PreparedTask
    calibration: tuple[Example, ...]
    plain: PreparedTask


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

    def noted(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Answers to the scored rows with what reports need besides: guessing, yes or no.

        See `Sample` for `guess` and `said`.
        """
        found = [
            {**row, "guess": one} for row, one in zip(rows, guesses(self.plain, rows), strict=True)
        ]
        if self.about.yes_no:
            for row, example in zip(found, self.plain.examples, strict=True):
                row["said"] = self._word(row["prediction"], example)
        return found

    def _word(self, text: str, example: Example) -> str:
        """Which word the task's own metric takes the text for."""
        said, yes, no = (
            self.plain.metric.read(one, example.choices) for one in (text, "yes", "no")
        )
        return "neither" if said not in (yes, no) else "yes" if said == yes else "no"


def split_task(name: str, task: PreparedTask, calibration: int) -> Split:
    """Set so many rows apart, the others to be scored.

    Raises:
        InputError: The task has too few independent rows.
    """
    ids = [example.id for example in task.examples]
    first, others = split_clusters(ids, task.clusters, calibration)
    if not first:
        alone = "it has one row" if len(ids) == 1 else "its rows share what they show"
        raise InputError(f"{alone}, so none can be set apart")
    about = Corrected(
        task=name,
        version=task.version,
        calibration=len(first),
        scored=len(others),
        yes_no={one.lower() for one in answer_space(task.examples)} == {"yes", "no"},
        told={},
        unavailable={},
    )
    plain = task.again([task.examples[place] for place in others])
    return Split(about, task, tuple(task.examples[place] for place in first), plain)


def prepare_ways(
    split: Split,
    answers: Mapping[str, str],
    classes: Sequence[TokenClass],
    wanted: Sequence[CorrectionName] = CORRECTIONS,
) -> Ways:
    """Make a task's corrections ready; those that can't be are told with their reason.

    Args:
        split: The task.
        answers: What the base answers to its calibration rows, by sample id; the offsets are
            fitted there.
        classes: Token classes without common tokens, whose offsets are fitted.
        wanted: Which corrections.
    """
    corrected: dict[str, Scorer] = {}
    unavailable: dict[CorrectionName, str] = {}
    told: dict[CorrectionName, str] = {}
    for correction in wanted:
        try:
            if correction == "offsets":
                made = _offsets(split, _as_answered(split.calibration, answers), classes)
            else:
                made = _MAKERS[correction](split)
        except InputError as error:
            unavailable[correction] = error.problems[0]
            continue
        corrected[correction], told[correction] = made
    about = split.about.model_copy(update={"told": told, "unavailable": unavailable})
    return Ways(about, split.plain, corrected)


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
        fitted, short = token_offsets(self.classes, places, (self._base, masses), size)
        found = score(model, self.plain, fitted)
        for sample in found.samples if short else ():
            sample["at_bound"] = list(short)
        return found


def _offsets(
    split: Split, rows: Sequence[Example], classes: Sequence[TokenClass]
) -> tuple[Scorer, str]:
    if not rows:
        raise InputError("the base answered no calibration row with a word")
    plain = split.plain
    encoded = [_last_turn(encode(row, plain.processing)) for row in rows]
    reference = Reference(split.about.task, encoded, plain.processing, plain.batches.batch_size)
    told = f"{len(classes)} classes of tokens, fitted on {len(rows)} prompts"
    return _WithOffsets(plain, reference, classes), told


def _last_turn(encoded: Encoded) -> Encoded:
    """The same with nothing marked but the answer: earlier turns are given, not said here."""
    marks = enumerate(encoded.supervised)
    marked = tuple(taught and place >= encoded.prompt_length for place, taught in marks)
    return replace(encoded, supervised=marked)


def _restricted(split: Split) -> tuple[Scorer, str]:
    plain = split.plain
    if plain.scoring != "generate":
        raise InputError("its choices are all that can be answered as it is")
    answers = answer_space(split.whole.examples)
    if len(answers) < 2:
        raise InputError(f"{answers[0]!r} is right in every row: nothing is left to choose")
    posed = [_answered(split.calibration[0], answer) for answer in answers]
    encoded = [encode(one, plain.processing) for one in posed]
    space = AnswerSpace(one.input_ids[one.prompt_length :] for one in encoded)
    roomy = plain.again(max_new_tokens=max(space.longest, plain.max_new_tokens))
    return lambda model: score(model, roomy, space), f"one of {len(answers)} answers"


def _instructed(split: Split) -> tuple[Scorer, str]:
    plain = split.plain
    line = format_instruction(plain.metric.name, split.calibration)
    asked = plain.again([with_instruction(row, line) for row in plain.examples])
    return lambda model: score(model, asked), line


def _shown(split: Split) -> tuple[Scorer, str]:
    shown, plain = worked_examples(split.calibration), split.plain
    asked = plain.again([with_examples(row, shown) for row in plain.examples])
    return lambda model: score(model, asked), "; ".join(row.answer for row in shown)


_MAKERS = {"answer-space": _restricted, "instruction": _instructed, "examples": _shown}


def _as_answered(rows: Sequence[Example], answers: Mapping[str, str]) -> list[Example]:
    """The rows with the base's own answers in the place of the right ones; blank ones left out."""
    return [_answered(row, answers[row.id]) for row in rows if answers.get(row.id, "").strip()]


def _answered(row: Example, answer: str) -> Example:
    turn = Message("assistant", (TextPart(answer),))
    return replace(row, messages=(*row.prompt, turn))
