"""Where in depth a shift of the output is written: each layer's branches, tuned against base.

arXiv 2510.08564 compares what a branch (attention, MLP) adds to the residual stream, seen through
the output head: the mean over answer tokens of |W_tuned h_tuned - W_base h_base|. It leaves out the
final norm, without which a late layer's large vector and an early layer's count alike whatever the
model makes of them. So the same is read through the norm too, and along the direction of an answer
class: by how much a branch raises the mean logit of its tokens over that of all tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from narrowtune.errors import InputError, RunFailed
from narrowtune.models.generation import evaluating
from narrowtune.models.supervised import output_head, predicting
from narrowtune.probes.branches import Layout, Written, written
from narrowtune.probes.classes import TokenClass
from narrowtune.probes.keeping import Kept
from narrowtune.probes.readings import Reading, Where, averaged
from narrowtune.probes.readout import Heads, Readout, directions
from narrowtune.probes.reference import Reference

SHIFT, NORMED, PUSH, LENGTH = "branch_shift", "branch_shift_normed", "class_push", "stream_length"
Columns = dict[tuple[str, str], Tensor]
"""By probe and part: a number per position, float64 on the CPU."""


@dataclass(frozen=True)
class _Seen:
    """The branches of one batch, [part, positions, hidden] float32, and their way to the head."""

    parts: tuple[str, ...]
    values: Tensor
    missing: Mapping[str, str]
    readout: Readout


@dataclass(frozen=True)
class _Comparison:
    """Two models' heads and, by class, their directions, the tuned one's first."""

    heads: Heads
    directions: Mapping[str, tuple[Tensor, Tensor]]


@dataclass
class Layers:
    """Texts and, once `remember` has been called, what the base's branches write in them.

    Attributes:
        references: A task's texts each.
        classes: The answer classes towards which a branch may push.
    """

    references: Sequence[Reference]
    classes: Sequence[TokenClass]
    _base: dict[str, list[_Seen]] = field(init=False, repr=False, default_factory=dict)
    _kept: Kept = field(init=False, repr=False, default_factory=Kept)
    _unchanged: _Comparison | None = field(init=False, repr=False, default=None)
    _reason: str = field(init=False, repr=False, default="no base has been read yet")

    def remember(self, base: nn.Module) -> None:
        """Read the texts with the model that others will be compared with, and keep its head."""
        self._kept, self._unchanged, self._base, self._reason = Kept(), None, {}, _no_matrix(base)
        if self._reason:
            return
        self._kept.keep(_head(base).cpu().clone())
        for reference in self.references:
            self._base[reference.task] = []
            for seen in self._look(base, reference):
                self._kept.keep(seen.values)
                seen = replace(seen, values=self._kept[-1])
                self._base[reference.task].append(seen)

    def read(self, model: nn.Module) -> list[Reading]:
        """What each branch writes otherwise than in the base, and why where that isn't known.

        Raises:
            InputError: The base has another vocabulary.
            RunFailed: A branch writes NaN.
        """
        if self._reason:
            nothing = Reading(SHIFT, "", "all", unit="logits", reason=self._reason)
            return [replace(nothing, task=reference.task) for reference in self.references]
        compared = self._comparison(_head(model))
        return [row for one in self.references for row in self._of_task(model, one, compared)]

    def _comparison(self, head: Tensor) -> _Comparison:
        base = self._kept[0]
        if base.shape != head.shape:
            raise InputError(
                f"layers: the base's output head has {base.shape[0]:,} tokens of {base.shape[1]:,} "
                f"numbers, that of the model compared with it {head.shape[0]:,} of "
                f"{head.shape[1]:,}; only models of one vocabulary compare"
            )
        same = torch.equal(head.cpu(), base)
        if same and self._unchanged is not None:
            return self._unchanged
        now = directions(head, self.classes)
        before = now if same else directions(base.to(head.device), self.classes)
        heads = Heads.of(head, None if same else base)
        compared = _Comparison(heads, {name: (now[name], before[name]) for name in now})
        if same:
            self._unchanged = compared
        return compared

    def _of_task(
        self, model: nn.Module, reference: Reference, compared: _Comparison
    ) -> Iterator[Reading]:
        pairs = list(zip(self._look(model, reference), self._base[reference.task], strict=True))
        missing = {**pairs[0][0].missing, **pairs[0][1].missing}
        for layer, why in missing.items():
            yield Reading(SHIFT, reference.task, "all", layer, unit="logits", reason=why)
        reasons = [one.readout.reason for pair in pairs for one in pair if one.readout.reason]
        batches = [_columns(seen, base, compared, not reasons) for seen, base in pairs]
        for key in batches[0]:
            yield from _rows(key, reference, torch.cat([columns[key] for columns in batches]))
        for probe in (NORMED, PUSH) if reasons else ():
            yield Reading(probe, reference.task, "all", unit="logits", reason=reasons[0])
        for one in self.classes:
            if not one.ids:
                empty = Reading(PUSH, reference.task, "all", f":{one.name}", unit="logits")
                yield replace(empty, reason=one.reason)

    def _look(self, model: nn.Module, reference: Reference) -> Iterator[_Seen]:
        """What each batch shows."""
        device, layout, head = next(model.parameters()).device, Layout.of(model), _head(model)
        with evaluating(model):
            for _, batch in reference.batches:
                here = batch.to(device)
                seen = written(model, layout, here.inputs, predicting(here.supervised))
                if any(bool(values.isnan().any()) for values in seen.parts.values()):
                    raise RunFailed(
                        f"{reference.task}: a layer writes NaN: the model's weights are damaged"
                    )
                yield _seen(seen, head)


def _seen(seen: Written, head: Tensor) -> _Seen:
    """A forward whose parts the head can read; else none of them, with the reason."""
    wide = {values.shape[-1] for values in seen.parts.values()}
    if wide == {head.shape[1]}:
        values = torch.stack(list(seen.parts.values()))
        return _Seen(tuple(seen.parts), values, seen.missing, Readout.of(seen))
    why = f"layers write {max(wide, default=0):,} numbers, and the head reads {head.shape[1]:,}"
    missing = seen.missing if not wide else dict.fromkeys(seen.parts, why)
    return _Seen((), torch.zeros(0), missing, Readout(None, None, why))


def _columns(seen: _Seen, base: _Seen, compared: _Comparison, through_norm: bool) -> Columns:
    """Every reading at the positions of one batch."""
    found: Columns = {}
    like = compared.heads.gram
    shared = [part for part in base.parts if part in seen.parts]
    for part in shared:
        tuned, before = (one.values[one.parts.index(part)].to(like) for one in (seen, base))
        found[SHIFT, part] = compared.heads.apart(tuned, before)
        if not through_norm:
            continue
        tuned, before = (
            one.readout.through_norm(values, base.readout)
            for one, values in ((seen, tuned), (base, before))
        )
        found[NORMED, part] = compared.heads.apart(tuned, before)
        for name, (now, then) in compared.directions.items():
            found[PUSH, f"{part}:{name}"] = (tuned - before) @ now + before @ (now - then)
    if through_norm and shared:
        found[LENGTH, ""] = seen.readout.stretch(base.readout)
    return {key: column.cpu() for key, column in found.items()}


def _rows(key: tuple[str, str], reference: Reference, column: Tensor) -> Iterator[Reading]:
    probe, part = key
    places: tuple[Where, ...] = ("first", "all") if probe == PUSH else ("all",)
    unit = "ratio" if probe == LENGTH else "logits"
    for at in places:
        yield averaged(
            Reading(probe, reference.task, at, part, unit=unit), reference.positions, column
        )


def _head(model: nn.Module) -> Tensor:
    """The output head's matrix [vocabulary, hidden], on a device that computes float64."""
    weight = output_head(model).weight
    assert isinstance(weight, Tensor)
    return weight.detach().cpu() if weight.device.type == "mps" else weight.detach()


def _no_matrix(model: nn.Module) -> str:
    """Why the output head can't be multiplied with what layers write; else empty."""
    head = output_head(model)
    weight = getattr(head, "weight", None)
    if isinstance(weight, Tensor) and weight.ndim == 2 and weight.is_floating_point():
        return ""
    return f"the output head, {type(head).__name__}, is no matrix of floating-point numbers"
