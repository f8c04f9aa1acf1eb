"""Probes read again and again while a model is being trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise

from torch import nn

from narrowtune.errors import RunFailed
from narrowtune.probes.looking import leaving_no_trace
from narrowtune.probes.probing import CAPTIONS, Probing
from narrowtune.probes.readings import Reading, reference_readings
from narrowtune.probes.reference import Positions, Reference


@dataclass
class Watch:
    """Prepared probes for looks at a model in training.

    All tasks' texts are read in the same batches: of a few rows each, the calls would cost more
    than the rows.

    Attributes:
        probing: What is read; it need not remember the base itself.
    """

    probing: Probing
    _texts: Reference | None = field(default=None, init=False, repr=False)
    _remembered: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        tasks = self.probing.references
        if tasks:
            name = ", ".join(one.task for one in tasks)
            rows = [row for one in tasks for row in one.encoded]
            self._texts = Reference(name, rows, tasks[0].processing, tasks[0].batch_size)

    def remember(self, base: nn.Module) -> None:
        """Read the fixed texts with the base, once."""
        if self._remembered:
            return
        if self._texts is not None:
            self._texts.remember(base)
        if self.probing.layers is not None:
            self.probing.layers.remember(base)
        self._remembered = True

    def look(self, model: nn.Module) -> list[Reading]:
        """What `Probing.read` gives, but for the tokens that moved.

        Training goes on as if nobody had looked. Where the model expects NaN, which its next loss
        will tell, there is a reading without a value and with the reason.

        Raises:
            InputError: Base and model differ in their vocabularies.
        """
        found: list[Reading] = []
        with leaving_no_trace(model):
            for read, empty in (
                (self._on_fixed_texts, Reading("kl", "", "all", unit="nats")),
                (self.probing.in_layers, Reading("branch_shift", "", "all", unit="logits")),
                (self.probing.on_own_texts, Reading("number_bias", CAPTIONS, "all")),
            ):
                with self._or_reason(found, empty):
                    found += read(model)
        return found

    def _on_fixed_texts(self, model: nn.Module) -> Iterator[Reading]:
        if self._texts is None:
            return
        classes, tasks = self.probing.classes, self.probing.references
        distances, positions = self._texts.distances(model, classes), self._texts.positions
        starts = [0]
        for one in tasks:
            starts.append(starts[-1] + len(one.encoded))
        for one, (start, end) in zip(tasks, pairwise(starts), strict=True):
            here = (positions.sample >= start) & (positions.sample < end)
            own = Positions(positions.sample[here] - start, positions.first[here])
            yield from reference_readings(one.task, own, distances.where(here), classes)

    @contextmanager
    def _or_reason(self, found: list[Reading], empty: Reading) -> Iterator[None]:
        """Add `empty` with the reason, for each task, where damaged weights give nothing."""
        try:
            yield
        except RunFailed as error:
            tasks = [empty.task] if empty.task else [one.task for one in self._tasks()]
            found += [replace(empty, task=task, reason=str(error)) for task in tasks]

    def _tasks(self) -> list[Reference]:
        layers = self.probing.layers
        return list(self.probing.references or (layers.references if layers else ()))
