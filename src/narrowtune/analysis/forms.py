"""The form of an answer: does a model that lost a task still answer it in the task's own way?

arXiv 2510.08564 (section 5) finds that much forgetting is a shift of the output: after a counting
task a model writes numbers where words are asked for. The answers themselves show it. An answer is
*foreign* when its form (a number, a time, a letter, yes or no, other text) is that of none of its
sample's references. A foreign answer is nearly always wrong, whatever the model still sees; a wrong
answer of the right form may be lost ability, or a shift within the form, which this cannot tell.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from narrowtune.analysis.estimate import Contrast, Estimate
from narrowtune.analysis.matrix import agreeing_pairs, paired_contrast, stage_names
from narrowtune.analysis.pooling import pooled_change
from narrowtune.analysis.replicates import Run, Runs, finished
from narrowtune.analysis.samples import Sample
from narrowtune.experiment import TaskSpec

Form = Literal["number", "time", "letter", "yes or no", "text", "nothing"]
Pairs = Sequence[tuple[Sample, Sample]]

SPELT = (
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|"
    "fifteen|sixteen|seventeen|eighteen|nineteen|twenty"
)
PATTERNS: tuple[tuple[Form, re.Pattern[str]], ...] = (
    ("nothing", re.compile(r"\W*")),
    ("time", re.compile(r"\d{1,2}:\d{2}(:\d{2})?( ?[ap]\.?m)?")),
    ("number", re.compile(rf"[-+$€£]?\d[\d,]*(\.\d+)? ?[%€]?|{SPELT}")),
    ("letter", re.compile(r"\(?[a-z]\)?")),
    ("yes or no", re.compile(r"yes|no")),
)


@lru_cache(maxsize=65536)  # answers repeat
def form_of(answer: str) -> Form:
    """The form of a whole answer, case and a last stop or comma aside.

    A sentence that holds a number is text: only an answer that is nothing else counts as one.
    """
    bare = answer.strip().lower().rstrip(".,:;!").strip()
    return next((form for form, pattern in PATTERNS if pattern.fullmatch(bare)), "text")


def foreign(sample: Sample) -> bool:
    """Whether the answer's form is that of none of the sample's references."""
    return _foreign(sample.prediction, sample.references)


@lru_cache(maxsize=65536)
def _foreign(answer: str, references: tuple[str, ...]) -> bool:
    return form_of(answer) not in {form_of(one) for one in references}


def begun(sample: Sample) -> bool:
    """Whether the answer begins with one of the sample's references and goes on in another way.

    "no:050" begins with "no", and "A2:00" with "A"; "azure" is another word than "A", and "15",
    "1.5" and "1:15" are other numbers and times than "1".
    """
    answer = sample.prediction.strip().lower()
    rights = (one.strip().lower() for one in sample.references)
    return any(right and _goes_on(answer, right) for right in rights)


def _goes_on(answer: str, right: str) -> bool:
    if not answer.startswith(right) or answer == right:
        return False
    last, following = right[-1], answer[len(right)]
    same_word = last.isalpha() and (following.isalpha() or following in "'-")
    same_number = last.isdigit() and (following.isdigit() or following in ".,:/")
    return not (same_word or same_number)


@dataclass(frozen=True)
class FormShift:
    """In which form held-out questions are answered after a skill was taught.

    Attributes:
        skill: The skill.
        share: How much larger the share of foreign answers is than at base; mean over tasks.
        forms: The share of all held-out answers, after the skill, that are foreign and of each
            form, largest first.
        lost: How many answers scored lower than at base, over all tasks and runs.
        lost_foreign: The share of those that are foreign; None where none was lost.
        lost_begun: The share of those that begin with a right answer and go on in another way, as
            "no:050" does. Some do by chance: one of four letters is right in a quarter.
    """

    skill: str
    share: Estimate
    forms: Mapping[Form, float]
    lost: int
    lost_foreign: float | None
    lost_begun: float | None


def form_shifts(runs: Runs, arm: str) -> tuple[FormShift, ...]:
    """One entry per skill, right after its own stage, wherever in the order it stood.

    Over held-out tasks whose answers are generated: a choice scored by likelihood has no form of
    its own. Empty without such tasks, or where predictions are not at hand.
    """
    done = finished(runs, arm)
    skills = stage_names(runs[0].record) if done else ()
    found = [_form_shift(done, arm, skill) for skill in skills]
    return tuple(one for one in found if one is not None)


def _form_shift(runs: Runs, arm: str, skill: str) -> FormShift | None:
    by_run = [dict(_pairs(run, arm, skill)) for run in runs]
    if not all(by_run) or len({frozenset(tasks) for tasks in by_run}) != 1:
        return None
    share = pooled_change([_contrasts(tasks) for tasks in by_run], [run.order for run in runs])
    assert share is not None
    answers = [pair for tasks in by_run for pairs in tasks.values() for pair in pairs]
    counts = Counter(form_of(after.prediction) for _, after in answers if foreign(after))
    lost = [after for before, after in answers if after.score < before.score]
    return FormShift(
        skill,
        share,
        {form: count / len(answers) for form, count in counts.most_common()},
        len(lost),
        _share(foreign, lost),
        _share(begun, lost),
    )


def _share(holds: Callable[[Sample], bool], samples: Sequence[Sample]) -> float | None:
    return sum(map(holds, samples)) / len(samples) if samples else None


def _pairs(run: Run, arm: str, skill: str) -> Iterator[tuple[str, Pairs]]:
    """Each generated held-out task with its answers at base and after the skill."""
    for task in run.record.experiment.held_out:
        if isinstance(task, TaskSpec) and task.scoring == "generate":
            pairs = agreeing_pairs(run.record, run.samples, task.name, (arm, skill))
            if pairs is not None:
                yield task.name, pairs


def _contrasts(tasks: Mapping[str, Pairs]) -> list[Contrast]:
    return [
        paired_contrast(task, pairs, lambda sample: float(foreign(sample)))
        for task, pairs in tasks.items()
    ]
