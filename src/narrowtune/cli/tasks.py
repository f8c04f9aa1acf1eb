"""Tasks as a command line names them; shared by `train` and `eval`.

FILE or FILE:METRIC is a test file, HARNESS:TASK or HARNESS:TASK:METRIC a public harness's task.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

# Files called so say nothing about what is in them; their folder does.
_USUAL = {"train", "test", "dev", "validation", "data"}
_RESERVED = {"base"}  # the untouched model, in records and reports


@dataclass(frozen=True)
class GivenTask:
    """A test file or a harness's task, with a name of its own and the metric that judges it.

    Attributes:
        name: Differs from task to task.
        file: The test file, or HARNESS:TASK.
        metric: Empty for a harness's task that is to be judged as usual there.
        harness: Which; empty for a test file.
    """

    name: str
    file: str
    metric: str
    harness: str = ""

    @property
    def task(self) -> str:
        """The task's name in the harness."""
        return self.file.removeprefix(f"{self.harness}:")


def given_tasks(
    texts: Iterable[str], metric: str = "exact", taken: Sequence[str] = ()
) -> list[GivenTask]:
    """The tasks that such texts stand for, each with another name.

    Args:
        texts: As given on the command line.
        metric: For those that name none.
        taken: Names that are in use already.

    Raises:
        InputError: Every unknown metric.
    """
    from narrowtune.errors import Problems
    from narrowtune.evaluation.harness import HARNESSES

    tasks: list[GivenTask] = []
    problems = Problems()
    for text in texts:
        used = [*taken, *(task.name for task in tasks)]
        harness, _, rest = text.partition(":")
        if harness in HARNESSES and rest:
            name, _, own = rest.partition(":")
            tasks.append(GivenTask(task_name(name, used), f"{harness}:{name}", own, harness))
            continue
        with problems.collect():
            file, own = split_metric(text, metric)
            tasks.append(GivenTask(task_name(file, used), file, own))
    problems.check()
    return tasks


def split_metric(given: str, metric: str = "exact") -> tuple[str, str]:
    """FILE:METRIC in two, or FILE with `metric`.

    A colon may belong to the file's name: it does where a file is called so, and where what
    follows it is no word and nothing before it is a file.

    Raises:
        InputError: What follows the colon is no metric; names the nearest.
    """
    from narrowtune.errors import InputError
    from narrowtune.evaluation import metric_named

    file, colon, own = given.rpartition(":")
    whole = not colon or (Path(given).is_file() and not Path(file).is_file())
    if whole or not (Path(file).is_file() or re.fullmatch(r"[\w-]+", own)):
        return given, metric
    try:
        return file, metric_named(own).name
    except InputError as error:
        raise InputError(f"{given}: {error}") from error


def task_name(file: str | Path, taken: Sequence[str] = ()) -> str:
    """A name from a file's: `a/train.jsonl` is `a`, `b.jsonl` is `b`; numbered if taken."""
    path = Path(file)
    folder = plain(path.parent.name) if path.stem in _USUAL else ""
    name = folder or plain(path.stem) or "task"
    unique, number = name, 1
    while unique in {*taken, *_RESERVED}:
        number += 1
        unique = f"{name}-{number}"
    return unique


def plain(text: str) -> str:
    """The text with everything but letters, digits and _ . + - made a hyphen."""
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", text).strip("-.+_")
