"""What the names of a model's tensors claim, as laws that its forward keeps or breaks.

Which entries reach the query of an attention is asked of autograd: an entry reaches it exactly if
its gradient is not zero. Which half of an MLP is linear is asked by scaling it. Each law returns
what breaks it, in words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from tiny_families import needs, table, tiny_image, tiny_inputs, tiny_model
from watched_forward import AttentionCall, Forward, watched_forward

from narrowtune.anatomy import Anatomy, TensorInfo

REACHES = {
    "query": {"attn.q", "attn.qkv"},
    "key": {"attn.k", "attn.kv", "attn.qkv"},
    "value": {"attn.v", "attn.kv", "attn.qkv"},
}
"""The parts that must reach each of an attention's three operands; no other `attn` may."""

_KINDS = ("mlp", "experts", "shared")
_FACTOR = -0.5  # a power of two scales exactly, and no activation keeps the sign


@dataclass(frozen=True)
class Entries:
    """The entries of one tensor that have one part."""

    tensor: TensorInfo
    part: str
    dim: int
    ranges: tuple[tuple[int, int], ...]

    def views(self, values: torch.Tensor) -> list[torch.Tensor]:
        """These entries of a value of the tensor's shape, as views into it."""
        return [values.narrow(self.dim, lo, hi - lo) for lo, hi in self.ranges]

    @property
    def numel(self) -> int:
        width = sum(hi - lo for lo, hi in self.ranges)
        return self.tensor.numel // self.tensor.shape[self.dim] * width


class Subject:
    """A tiny model, what its anatomy calls its tensors, and a forward that was watched.

    Args:
        case: A family, or a variant of one.
        tower: Whose tensors are all judged: `language` reads a text, `vision` sees an image.
    """

    def __init__(self, case: str, tower: str = "language") -> None:
        self.case, self.tower = case, tower
        self.model = tiny_model(case)
        self.parameters = dict(self.model.named_parameters(remove_duplicate=False))
        found = Anatomy.of(self.model).parameters
        self.entries = [e for t in found for e in _entries(t)]
        self.excused: set[tuple[str, str]] = set()

    @cached_property
    def seen(self) -> Forward:
        return self.run()

    def run(self) -> Forward:
        torch.manual_seed(0)
        if self.tower == "vision":
            return watched_forward(self.model, self.model.get_image_features, tiny_image(self.case))
        return watched_forward(self.model, self.model, tiny_inputs(self.case))

    @property
    def of_tower(self) -> list[Entries]:
        return [e for e in self.entries if e.tensor.tower == self.tower]

    def under(self, path: str) -> list[Entries]:
        """The entries that lie in a module."""
        return _within(path, self.entries)

    def exempt(self, law: str, fault: str) -> bool:
        """Whether the table excuses a fault."""
        mine = [p for p in self._excuses.get(law, {}) if re.search(p, fault)]
        self.excused |= {(law, pattern) for pattern in mine}
        general = table()["everywhere"][self.tower].get(law, {})
        return bool(mine) or any(re.search(pattern, fault) for pattern in general)

    def needless_excuses(self) -> set[tuple[str, str]]:
        """What the table excuses in this family although nothing is wrong with it."""
        return {(law, pattern) for law, excuses in self._excuses.items() for pattern in excuses} - (
            self.excused
        )

    @property
    def _excuses(self) -> dict[str, dict[str, str]]:
        """Patterns of faults and why they are none, by law."""
        found: dict[str, dict[str, str]] = needs(self.case).get("exempt", {}).get(self.tower, {})
        return found


def _entries(tensor: TensorInfo) -> list[Entries]:
    if tensor.slices is None:
        whole = ((0, tensor.shape[0]),) if tensor.shape else ()
        return [Entries(tensor, tensor.part, 0, whole)] if whole else []
    return [Entries(tensor, s.part, s.dim, s.ranges) for s in tensor.slices]


# --- attention ----------------------------------------------------------------------------------


def broken_attention(subject: Subject) -> list[str]:
    """Entries that reach an operand of their attention which their name denies, or fail to."""
    calls: dict[str, list[AttentionCall]] = {}
    elsewhere = needs(subject.case).get("softmax_elsewhere", "$^")
    for call in subject.seen.attentions:
        if re.search(elsewhere, call.path):
            continue
        calls.setdefault(_attention(subject, call.path), []).append(call)
    broken, judged = [], set()
    for path, found in calls.items():
        members = [e for e in subject.under(path) if e.part.startswith("attn.")]
        judged |= {e.tensor.name for e in members}
        if any(e.tensor.tied_to for e in members):
            continue  # judged under the names that own the tensors
        for role in REACHES:
            values = [getattr(call, role) for call in found]
            broken += _misnamed(subject, members, role, values)
            if not any(e.part in REACHES[role] for e in members):
                broken.append(f"{path}: nothing is named for its {role}")
    named = {e.tensor.name for e in subject.of_tower if e.part.startswith("attn.")}
    broken += [f"{name}: in no attention" for name in sorted(named - judged)]
    return [line for line in broken if not subject.exempt("attention", line)]


def _attention(subject: Subject, path: str) -> str:
    """The smallest module around a call that has an output projection; else where it happens."""
    around = path
    while not any(e.part == "attn.o" for e in subject.under(around)):
        around, _, last = around.rpartition(".")
        if not around or last.isdecimal():  # beyond the layer
            return path
    return around


def _misnamed(
    subject: Subject, members: list[Entries], role: str, values: list[torch.Tensor]
) -> Iterator[str]:
    gradients = _gradients(subject, values, members)
    for entries in members:
        expected = entries.part in REACHES[role]
        gradient = gradients[entries.tensor.name]
        if any(bool(view.any()) is not expected for view in entries.views(gradient)):
            yield f"{entries.tensor.name} {entries.part}: {role} reached={not expected}"
        elif expected and not _every_row(entries, gradient):
            yield f"{entries.tensor.name} {entries.part}: {role} not reached by every row"


def _every_row(entries: Entries, gradient: torch.Tensor) -> bool:
    """Whether all along every dimension something counts: what is fused in secret does not."""
    kept = torch.cat(entries.views(gradient), entries.dim) != 0
    sides = (kept.transpose(0, dim).reshape(kept.shape[dim], -1) for dim in range(kept.dim()))
    return all(bool(side.any(1).all()) for side in sides)


def _gradients(
    subject: Subject, values: list[torch.Tensor], members: Iterable[Entries]
) -> dict[str, torch.Tensor]:
    """The gradient of a random sum of `values` by each tensor, zero where nothing leads there."""
    names = list(dict.fromkeys(e.tensor.name for e in members))
    torch.manual_seed(2)
    sums = [(value * torch.randn_like(value)).sum() for value in values if value.requires_grad]
    if not names or not sums:
        return {name: torch.zeros_like(subject.parameters[name]) for name in names}
    found = torch.autograd.grad(
        sum(sums),
        [subject.parameters[name] for name in names],
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return dict(zip(names, found, strict=True))


# --- MLPs ---------------------------------------------------------------------------------------


def broken_mlps(subject: Subject) -> list[str]:
    """MLPs whose halves are not what they are called."""
    mlps = _mlps(subject)
    lines = [
        f"{path} {kind}: {fault}"
        for (path, kind), members in mlps.items()
        for fault in _mlp_faults(subject, members, kind)
    ]
    ended = {e.tensor.name for members in mlps.values() for e in members}
    owned = [e for e in subject.of_tower if e.tensor.tied_to is None]
    named = {e.tensor.name for e in owned if e.part.partition(".")[0] in _KINDS}
    lines += [f"{name}: of no MLP with an end" for name in sorted(named - ended)]
    return [line for line in lines if not subject.exempt("mlp", line)]


def _mlps(subject: Subject) -> dict[tuple[str, str], list[Entries]]:
    """The entries of each MLP, by its kind and the smallest module from input to output."""
    found: dict[tuple[str, str], list[Entries]] = {}
    for end in subject.entries:
        kind, _, role = end.part.partition(".")
        if kind in _KINDS and role == "down" and end.tensor.tied_to is None:
            place = (end.tensor.tower, end.tensor.layer)
            mates = [e for e in subject.entries if (e.tensor.tower, e.tensor.layer) == place]
            path = end.tensor.name
            while path and not any(e.part == f"{kind}.up" for e in _within(path, mates)):
                path = path.rpartition(".")[0]
            inside = _within(path, mates)
            found[path, kind] = [e for e in inside if e.part.startswith(f"{kind}.")]
    return found


def _within(path: str, entries: Iterable[Entries]) -> list[Entries]:
    return [e for e in entries if e.tensor.name.startswith(f"{path}." if path else "")]


def _mlp_faults(subject: Subject, members: list[Entries], kind: str) -> Iterator[str]:
    of = {p: [e for e in members if e.part == f"{kind}.{p}"] for p in ("gate", "up", "down")}
    judged = of["down"][0].tensor.tower == subject.tower
    if not _entering(subject.seen, of["down"]):
        # In a list of experts, one may not have been chosen.
        if judged and not re.search(r"experts\.\d+\.", of["down"][0].tensor.name):
            yield "its down is multiplied with nothing"
        return
    if not of["up"]:
        yield "nothing is named up"
    elif judged and len({_size(entries) for entries in of.values() if entries}) > 1:
        yield "the sizes of gate, up and down do not fit"
    for half in ("gate", "up"):
        if of[half]:
            yield from _half_faults(subject, of, half)


def _half_faults(subject: Subject, of: dict[str, list[Entries]], half: str) -> Iterator[str]:
    """What is wrong with the linear half, `up` beside a gate, or with one through activation."""
    before = _entering(subject.seen, of["down"])
    after = _entering(_scaled(subject, of[half], _FACTOR), of["down"])
    zero: list[Any] = [None] * len(before)
    if needs(subject.case).get("affine"):
        zero = _entering(_scaled(subject, of[half], 0.0), of["down"])
    linear = _is_scaled(before, after, zero)
    if linear is not (half == "up" and bool(of["gate"])):
        yield f"{half} linear={linear}"
    if all(map(torch.equal, before, after)):
        yield f"{half} does not reach down"


def _size(entries: list[Entries]) -> int:
    return sum(e.numel for e in entries if len(e.tensor.shape) > 1 and "bias" not in e.tensor.name)


def _entering(seen: Forward, downs: list[Entries]) -> list[torch.Tensor]:
    return [x for e in downs for x in seen.multiplied.get(e.tensor.name, [])]


def _is_scaled(before: list[torch.Tensor], after: list[torch.Tensor], zero: list[Any]) -> bool:
    """Whether what enters `down` was scaled: exactly so, unless there is something at zero."""
    return len(before) == len(after) == len(zero) and all(
        torch.equal(y, _FACTOR * x)
        if z is None
        else torch.allclose(y - z, _FACTOR * (x - z), 1e-4, 1e-5)
        for x, y, z in zip(before, after, zero, strict=True)
    )


def _scaled(subject: Subject, entries: list[Entries], factor: float) -> Forward:
    """The forward with these entries scaled; the model is as it was afterwards."""
    # `data`, since the first forward's graph, still in use, forbids changes to the parameters.
    views = [v for e in entries for v in e.views(subject.parameters[e.tensor.name].data)]
    kept = [view.clone() for view in views]
    for view in views:
        view.mul_(factor)
    with torch.no_grad():
        seen = subject.run()
    for view, values in zip(views, kept, strict=True):
        view.copy_(values)
    return seen


# --- layers -------------------------------------------------------------------------------------


def out_of_order(subject: Subject) -> list[str]:
    """Weights used after those of a later layer: layers are counted as the forward passes them."""
    layers = {e.tensor.name: e.tensor.layer for e in subject.of_tower}
    used = [(n, layers[n]) for n in subject.seen.multiplied if layers.get(n) is not None]
    lines = [
        f"{name}: layer {layer} after layer {before}"
        for (_, before), (name, layer) in pairwise(used)
        if layer < before
    ]
    return [line for line in lines if not subject.exempt("order", line)]


# --- names --------------------------------------------------------------------------------------


def unnamed(subject: Subject) -> list[str]:
    """Weights that are multiplied with something and called `other`."""
    terms = {e.tensor.name: e.tensor.term for e in subject.entries}
    used = [f"{name}: {terms[name]}" for name in subject.seen.multiplied if name in terms]
    lines = [line for line in used if re.search(r" other\.|\.other$", line)]
    return [line for line in lines if not subject.exempt("named", line)]


# --- use ----------------------------------------------------------------------------------------


def unused(subject: Subject) -> list[str]:
    """Attention and MLP entries without which the model would say the same."""
    kinds = ("attn.", "mlp.", "experts.", "shared.")
    # An indexer chooses among keys, and a choice has no gradient.
    named = [e for e in subject.of_tower if e.part.startswith(kinds) and e.part != "attn.indexer"]
    named = [e for e in named if not subject.exempt("used", e.tensor.name)]
    gradients = _gradients(subject, [subject.seen.logits], named)
    used: dict[str, bool] = {}
    for e in named:
        # Of experts in a list it is enough that one was chosen.
        alike = re.sub(r"experts\.\d+", "experts.*", e.tensor.name) + f" {e.part}"
        moved = any(bool(v.any()) for v in e.views(gradients[e.tensor.name]))
        used[alike] = used.get(alike, False) or moved
    return [name for name, yes in used.items() if not yes]
