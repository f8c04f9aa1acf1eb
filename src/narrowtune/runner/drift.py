"""The experiment's probes: prepared with the plan, read at base and after every stage.

Those that are read while a stage is taught as well are in `during`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from narrowtune.data.example import Example
from narrowtune.errors import InputError
from narrowtune.experiment import Experiment, ProbeName, ProbeSpec, TaskSpec
from narrowtune.models.processing import Processing
from narrowtune.probes.looking import Interval
from narrowtune.probes.probing import Asked, Probing, caption_prompts, prepare_probing
from narrowtune.probes.watching import Watch
from narrowtune.runner.during import Looks
from narrowtune.runner.reading import DataReader

if TYPE_CHECKING:
    from narrowtune.runner.plan import StagePlan
    from narrowtune.runner.session import Session


def plan_probes(
    experiment: Experiment,
    stages: Sequence[StagePlan],
    processing: Processing,
    reader: DataReader,
    batch_size: int,
) -> tuple[Probing | None, tuple[Looks, ...]]:
    """The experiment's probes on its held-out tasks, and those among them read during training.

    None and nothing where it asks for none.

    Raises:
        InputError: There is nothing to read them on, or texts don't fit into the model's context.
    """
    specs = experiment.probes
    if not specs:
        return None, ()
    tested = own_tasks(experiment, reader)
    if not tested and not all(spec.data for spec in specs):
        raise InputError(
            f"{', '.join(spec.probe for spec in specs)}: probes read held-out tasks of your own "
            "files, and there are none; add one to held_out, or give number_bias a file of "
            "prompts as data"
        )
    prompts = [row for spec in specs for row in _captions(spec, tested, reader)]

    def prepared(sizes: Mapping[ProbeName, int], longest: int) -> Probing:
        most = max((size for name, size in sizes.items() if name != "number_bias"), default=0)
        asked = Asked(
            probes=frozenset(sizes),
            texts={name: rows[:most] for name, rows in tested.items()},
            captions=prompts[: sizes.get("number_bias", 0)],
            taught={stage.name: stage.rows for stage in stages},
            max_new_tokens=longest,
            batch_size=batch_size,
        )
        return prepare_probing(asked, processing)

    longest = max((spec.max_new_tokens for spec in specs if spec.probe == "number_bias"), default=1)
    looks = tuple(
        Looks(every, Watch(prepared({one.probe: one.rows_during for one in together}, longest)))
        for every, together in _during(specs)
    )
    return prepared({spec.probe: spec.limit for spec in specs}, longest), looks


def own_tasks(experiment: Experiment, reader: DataReader) -> dict[str, list[Example]]:
    """The rows of the held-out tasks of own files, as they have been read."""
    return {
        task.name: reader.tested[task.name]
        for task in experiment.held_out
        if isinstance(task, TaskSpec) and task.name in reader.tested
    }


def _during(specs: Sequence[ProbeSpec]) -> Iterator[tuple[Interval, list[ProbeSpec]]]:
    """The probes read during training, those of the same texts together, with their interval."""
    looking = [spec for spec in specs if spec.every is not None]
    for own_texts in (False, True):
        together = [spec for spec in looking if (spec.probe == "number_bias") == own_texts]
        ways = {(spec.every, spec.rows_during) for spec in together}
        if len(ways) > 1:
            raise InputError(
                f"{' and '.join(spec.probe for spec in together)} read the same texts in one pass: "
                "give both the same every and rows_during, or leave every out of one"
            )
        for every, _ in ways:
            assert every is not None
            yield every, together


def read_probes(session: Session, model: nn.Module, arm: str, stage: str) -> None:
    """What the probes say of the model as it stands, into the record, once."""
    probing, journal = session.plan.probing, session.journal
    if probing is None or is_probed(session, arm, stage):
        return
    session.begin(f"{arm} · probing after {stage}", 1)
    where = {"arm": arm, "stage": stage}
    found = [where | reading.to_dict() for reading in probing.read(model)]
    journal.add(readings=found)


def is_probed(session: Session, arm: str, stage: str) -> bool:
    """Whether the record holds what the probes said after a stage, if there are any."""
    names = {"kl", "branch_shift", "number_bias"}
    unit = {"arm": arm, "stage": stage, "step": None}  # rows with a step are of the training
    return session.plan.probing is None or any(
        session.journal.has("readings", probe=name, **unit) for name in names
    )


def _captions(
    spec: ProbeSpec, tested: Mapping[str, list[Example]], reader: DataReader
) -> list[Example]:
    if spec.probe != "number_bias":
        return []
    most = max(spec.limit, spec.rows_during if spec.every is not None else 0)
    if spec.data is None:
        return caption_prompts([row for rows in tested.values() for row in rows], most)
    named = TaskSpec(name="number_bias-data", test=spec.data)
    rows: list[Example] = reader.read(named, spec.data, list, limit=most, test=True)
    del reader.tested[named.name]  # nothing is scored on it, so training may share its images
    return rows
