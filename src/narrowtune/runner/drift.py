"""The experiment's probes: prepared with the plan, read at base and after every stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from narrowtune.data.example import Example
from narrowtune.errors import InputError
from narrowtune.experiment import Experiment, ProbeSpec, TaskSpec
from narrowtune.models.processing import Processing
from narrowtune.probes.probing import Asked, Probing, caption_prompts, prepare_probing
from narrowtune.runner.reading import DataReader

if TYPE_CHECKING:
    from narrowtune.runner.arm import Session
    from narrowtune.runner.plan import StagePlan


def plan_probes(
    experiment: Experiment,
    stages: Sequence[StagePlan],
    processing: Processing,
    reader: DataReader,
    batch_size: int,
) -> Probing | None:
    """The experiment's probes on its held-out tasks; None where it asks for none.

    Raises:
        InputError: There is nothing to read them on, or texts don't fit into the model's context.
    """
    specs = {spec.probe: spec for spec in experiment.probes}
    if not specs:
        return None
    tested = {
        task.name: reader.tested[task.name]
        for task in experiment.held_out
        if isinstance(task, TaskSpec) and task.name in reader.tested
    }
    if not tested and not all(spec.data for spec in specs.values()):
        raise InputError(
            f"{', '.join(specs)}: probes read held-out tasks of your own files, and there are "
            "none; add one to held_out, or give number_bias a file of prompts as data"
        )
    most = max((spec.limit for name, spec in specs.items() if name != "number_bias"), default=0)
    own = specs.get("number_bias")
    asked = Asked(
        probes=frozenset(specs),
        texts={name: rows[:most] for name, rows in tested.items()},
        captions=_captions(own, tested, reader) if own else (),
        taught={stage.name: stage.rows for stage in stages},
        max_new_tokens=own.max_new_tokens if own else 1,
        batch_size=batch_size,
    )
    return prepare_probing(asked, processing)


def read_probes(session: Session, model: nn.Module, arm: str, stage: str) -> None:
    """What the probes say of the model as it stands, into the record, once."""
    probing, journal = session.plan.probing, session.journal
    names = {"kl", "number_bias"}
    done = any(journal.has("readings", arm=arm, stage=stage, probe=name) for name in names)
    if probing is None or done:
        return
    session.begin(f"{arm} · probing after {stage}", 1)
    where = {"arm": arm, "stage": stage}
    found = [where | reading.to_dict() for reading in probing.read(model)]
    journal.add(readings=found)


def _captions(
    spec: ProbeSpec, tested: Mapping[str, list[Example]], reader: DataReader
) -> list[Example]:
    if spec.data is None:
        return caption_prompts([row for rows in tested.values() for row in rows], spec.limit)
    named = TaskSpec(name="number_bias-data", test=spec.data)
    rows: list[Example] = reader.read(named, spec.data, list, limit=spec.limit, test=True)
    del reader.tested[named.name]  # nothing is scored on it, so training may share its images
    return rows
