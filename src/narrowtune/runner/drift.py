"""The experiment's probes: prepared with the plan, read at base and after every stage."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from torch import nn

from narrowtune.data.example import Example
from narrowtune.errors import InputError, Problems
from narrowtune.experiment import Experiment, ProbeSpec, TaskSpec
from narrowtune.models.processing import Processing
from narrowtune.probes.classes import TokenClass, answer_class, rule_classes
from narrowtune.probes.probing import (
    Captions,
    Probing,
    caption_prompts,
    prepare_captions,
    prepare_reference,
)
from narrowtune.probes.reference import Reference
from narrowtune.runner.reading import DataReader

if TYPE_CHECKING:
    from narrowtune.runner.arm import Session
    from narrowtune.runner.plan import StagePlan

Tested = Sequence[tuple[TaskSpec, list[Example]]]


def prepare_probing(
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
    tested = [
        (task, reader.tested[task.name])
        for task in experiment.held_out
        if isinstance(task, TaskSpec) and task.name in reader.tested
    ]
    if not tested and not all(spec.data for spec in specs.values()):
        raise InputError(
            f"{', '.join(specs)}: probes read held-out tasks of your own files, and there are "
            "none; add one to held_out, or give number_bias a file of prompts as data"
        )
    fixed = [spec for name, spec in specs.items() if name != "number_bias"]
    captions = specs.get("number_bias")
    return Probing(
        _references(fixed, tested, processing, batch_size),
        _classes(stages, processing) if "answer_bias" in specs else (),
        _captions(captions, tested, processing, (reader, batch_size)) if captions else None,
        processing,
    )


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


def _references(
    specs: Sequence[ProbeSpec], tested: Tested, processing: Processing, batch_size: int
) -> list[Reference]:
    most = max((spec.limit for spec in specs), default=0)
    found, problems = [], Problems()
    for task, rows in tested if most else ():
        with problems.collect(f"task {task.name}"):
            found.append(prepare_reference(task.name, rows[:most], processing, batch_size))
    problems.check()
    return found


def _classes(stages: Sequence[StagePlan], processing: Processing) -> tuple[TokenClass, ...]:
    taught = [answer_class(one.name, one.rows, processing.end_token_ids) for one in stages]
    return (*rule_classes(processing.tokenizer), *taught)


def _captions(
    spec: ProbeSpec, tested: Tested, processing: Processing, how: tuple[DataReader, int]
) -> Captions:
    reader, batch_size = how
    prepare = partial(
        prepare_captions,
        processing=processing,
        max_new_tokens=spec.max_new_tokens,
        batch_size=batch_size,
    )
    if spec.data is None:
        every = [row for _, rows in tested for row in rows]
        return prepare(caption_prompts(every, spec.limit))
    named = TaskSpec(name="number_bias-data", test=spec.data)
    captions = reader.read(named, spec.data, prepare, limit=spec.limit, test=True)
    del reader.tested[named.name]  # nothing is scored on it, so training may share its images
    return captions
