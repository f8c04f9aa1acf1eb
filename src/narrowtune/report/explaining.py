"""The results of `explain`: read from a run's folder, as rows and as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from narrowtune.analysis.detection import Detection, Reading, detection
from narrowtune.analysis.estimate import Estimate
from narrowtune.analysis.explaining import Explained, Quartet, Rows, explained
from narrowtune.analysis.wording import bounds, counted, signed
from narrowtune.errors import InputError
from narrowtune.record import BASE, Record
from narrowtune.record.explanation import CORRECTIONS, PLAIN, Explanation, answers_path
from narrowtune.report.predictions import read_answers
from narrowtune.report.tables import plain_table

ALL = "all"
"""In a row's place of a stage or a task: the mean over them."""

LEGEND = (
    "Percentage points with 95 % intervals, * where the interval does not hold 0. Lost: base less "
    "tuned model. Back: what of it the correction recovers; left: what the tuned model still lacks "
    "when base and tuned are both corrected. Share of lost: back over lost, where something was "
    "clearly lost. Above guessing: the same after every score has been lowered by what the same "
    "answers score when shuffled over the questions. † the correction harms the base itself, so "
    "little is left that could be lost: such a row proves nothing."
)

Model = tuple[str, str, str]


@dataclass(frozen=True)
class Finding:
    """What became of one loss; stage and task may be `ALL`, the mean over them."""

    arm: str
    stage: str
    task: str
    runs: int
    found: Explained

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        where = {"arm": self.arm, "stage": self.stage, "task": self.task, "runs": self.runs}
        facts = where | _facts(self.found)
        return facts | {"above": _facts(self.found.above) if self.found.above else None}


def _facts(one: Explained) -> dict[str, Any]:
    ends = None if one.share_interval is None else list(one.share_interval)
    derived = {"share": one.share, "share_interval": ends, "harms_base": one.harms_base}
    return asdict(one) | derived


@dataclass(frozen=True)
class Told:
    """Yes-or-no answers of one model under one correction, or plain."""

    arm: str
    stage: str
    task: str
    correction: str
    found: Detection

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"found": asdict(self.found)}


class Answers:
    """All answers that `explain` has left, read once each.

    Args:
        folder: The explanation's.
        record: Of the run.
        explanation: What was asked.
    """

    def __init__(self, folder: Path, record: Record, explanation: Explanation) -> None:
        self.folder, self.record, self.explanation = folder, record, explanation
        self._read: dict[Path, Rows | None] = {}

    @property
    def replicates(self) -> list[tuple[str, int]]:
        """Names with the number of their order; one without a name for a run that ran once."""
        orders = list(dict.fromkeys(row.order for row in self.record.replicates))
        named = [(row.name, orders.index(row.order) + 1) for row in self.record.replicates]
        return named or [("", 1)]

    def of(self, model: Model, correction: str, task: str) -> Rows | None:
        """One model's answers; None where it was not asked.

        Raises:
            InputError: The file is damaged.
        """
        path = answers_path(self.folder, model, correction, task)
        if path not in self._read:
            problems: list[str] = []
            self._read[path] = read_answers(path, problems) if path.is_file() else None
            if problems:
                raise InputError(problems)
        return self._read[path]

    def quartet(
        self, replicate: str, arm: str, stages: Sequence[str], correction: str, task: str
    ) -> Quartet | None:
        """Base and tuned answers, plain and corrected; None where some are missing."""
        base = [self.of(("", BASE, BASE), way, task) for way in (PLAIN, correction)]
        tuned = [
            [self.of((replicate, arm, stage), way, task) for stage in stages]
            for way in (PLAIN, correction)
        ]
        plain, corrected = base
        after, both = ([rows for rows in one if rows is not None] for one in tuned)
        if plain is None or corrected is None or {len(after), len(both)} != {len(stages)}:
            return None
        return Quartet(task, plain, corrected, after, both)


def findings(answers: Answers) -> list[Finding]:
    """Every arm, after every stage and over all, on every task and over all."""
    record = answers.record
    stages = [stage.name for stage in record.experiment.stages]
    found: list[Finding] = []
    for arm in (one.name for one in record.experiment.arms):
        after = [stage for stage in stages if _asked(answers, arm, stage)]
        groups = [(stage, [stage]) for stage in after]
        if len(after) > 1:
            groups.append((ALL, after))
        for name, group in groups:
            found += _of_models(answers, arm, name, group)
    return found


def detections(answers: Answers) -> list[Told]:
    """Every yes-or-no task, of the base and after every stage."""
    record = answers.record
    tasks = [one for one in answers.explanation.tasks if one.yes_no]
    models = [(BASE, BASE)] + [
        (arm.name, stage.name)
        for arm in record.experiment.arms
        for stage in record.experiment.stages
    ]
    found: list[Told] = []
    for arm, stage in models:
        for task in tasks:
            for way in (PLAIN, *task.told):
                runs = list(_runs(answers, arm, stage, way, task.task))
                one = detection([rows for rows, _ in runs], [order for _, order in runs])
                if one is not None:
                    found.append(Told(arm, stage, task.task, way, one))
    return found


def print_explanation(
    explanation: Explanation, found: Sequence[Finding], told: Sequence[Told], console: Console
) -> None:
    """One table per arm, then what can't be tried, and the yes-or-no tasks."""
    for arm in dict.fromkeys(one.arm for one in found):
        rows = [one for one in found if one.arm == arm]
        console.print(_table(f"{arm}: mean over held-out tasks", _by(rows, "stage", task=ALL)))
        whole = ALL if any(one.stage == ALL for one in rows) else rows[0].stage
        of = "all stages" if whole == ALL else whole
        console.print(_table(f"{arm}: by task, {of}", _by(rows, "task", stage=whole)))
    for task in dict.fromkeys(one.task for one in told):
        console.print(_detection_table(task, [one for one in told if one.task == task]))
    for about in explanation.tasks:
        for correction, reason in about.unavailable.items():
            console.print(Text(f"{about.task}: no {correction}: {reason}", style="dim"))
    for name, reason in explanation.left_out.items():
        console.print(Text(f"{name}: left out: {reason}", style="dim"))
    console.print(Text(LEGEND, style="dim"))


def _of_models(answers: Answers, arm: str, name: str, stages: list[str]) -> Iterator[Finding]:
    for correction in CORRECTIONS:
        tasks = [one.task for one in answers.explanation.tasks if correction in one.told]
        by_task = {task: _quartets(answers, arm, stages, correction, task) for task in tasks}
        by_task = {task: runs for task, runs in by_task.items() if runs}
        for task, runs in by_task.items():
            one = explained(correction, [[quartet] for quartet, _ in runs], [o for _, o in runs])
            if one is not None:
                yield Finding(arm, name, task, len(runs), one)
        if len({len(runs) for runs in by_task.values()}) == 1 and len(by_task) > 1:
            together = list(zip(*by_task.values(), strict=True))
            orders = [row[0][1] for row in together]
            one = explained(
                correction, [[quartet for quartet, _ in row] for row in together], orders
            )
            if one is not None:
                yield Finding(arm, name, ALL, len(orders), one)


def _quartets(
    answers: Answers, arm: str, stages: list[str], correction: str, task: str
) -> list[tuple[Quartet, int]]:
    pairs = [
        (answers.quartet(name, arm, stages, correction, task), order)
        for name, order in answers.replicates
    ]
    return [(quartet, order) for quartet, order in pairs if quartet is not None]


def _runs(
    answers: Answers, arm: str, stage: str, way: str, task: str
) -> Iterator[tuple[Rows, int]]:
    if arm == BASE:
        rows = answers.of(("", BASE, BASE), way, task)
        yield from [(rows, 1)] if rows is not None else []
        return
    for name, order in answers.replicates:
        rows = answers.of((name, arm, stage), way, task)
        if rows is not None:
            yield rows, order


def _asked(answers: Answers, arm: str, stage: str) -> bool:
    task = answers.explanation.tasks[0].task
    return any(answers.of((name, arm, stage), PLAIN, task) for name, _ in answers.replicates)


def _by(rows: Sequence[Finding], key: str, **fixed: str) -> Mapping[str, Mapping[str, Explained]]:
    """Findings by the value of `key`, then by correction."""
    found: dict[str, dict[str, Explained]] = {}
    for row in rows:
        if all(getattr(row, name) == value for name, value in fixed.items()):
            found.setdefault(getattr(row, key), {})[row.found.correction] = row.found
    return found


def _table(title: str, rows: Mapping[str, Mapping[str, Explained]]) -> Table:
    table = plain_table(title, "")
    for name in ("lost", "back", "left", "base moves"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in rows.items():
        # Each correction with its own loss: not every task can be corrected in every way.
        table.add_row(Text(name, style="bold"))
        for way, one in row.items():
            behind = f"n {one.lost.n}, {counted(one.lost.runs, 'run')}"
            base = points(one.base_change, " †" if one.harms_base else "")
            table.add_row(f" {way}\n {behind}\n share of lost", *_parts(one), base)
            if one.above is not None:
                table.add_row(" above\n guessing\n share of lost", *_parts(one.above), "")
    return table


def _parts(one: Explained) -> tuple[str, str, str]:
    back = f"{points(one.recovered)}\n{share_back(one)}"
    return points(one.lost), back, points(one.not_recovered)


def points(one: Estimate, mark: str = "") -> str:
    """A value in percentage points, its interval below it, * where that does not hold 0."""
    return f"{signed(one.value)}{'*' if one.clear else ''}{mark}\n{bounds(one)}"


def share_back(one: Explained) -> str:
    """What of the loss comes back, with its interval; a dash where nothing was clearly lost."""
    if one.share is None or one.share_interval is None:
        return "-"
    low, high = one.share_interval
    return f"{100 * one.share:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def _detection_table(task: str, told: Sequence[Told]) -> Table:
    title = f"{task}: yes and no told apart (d'), which is preferred (criterion, + for no)"
    table = plain_table(title, "")
    table.add_column("answered", no_wrap=True)
    for name in ("d'", "criterion", "yes", "neither"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in told:
        who = BASE if one.arm == BASE else f"{one.arm} after {one.stage}"
        d, c = one.found.discrimination, one.found.criterion
        shares = [f"{100 * x:.0f} %" for x in (one.found.said_yes, one.found.neither)]
        table.add_row(
            who if one.correction == PLAIN else "", one.correction, *map(_z, (d, c)), *shares
        )
    return table


def _z(one: Reading) -> str:
    return f"{one.value:+.2f}\n[{one.low:+.2f}, {one.high:+.2f}]"
