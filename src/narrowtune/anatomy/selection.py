"""Which tensors are trained: terms resolved against an anatomy, before anything is touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from narrowtune.anatomy.matching import Atoms, Matcher
from narrowtune.anatomy.region import Region
from narrowtune.anatomy.tensors import Slice, TensorInfo
from narrowtune.errors import InputError

if TYPE_CHECKING:
    import torch

    from narrowtune.anatomy.anatomy import Anatomy
    from narrowtune.anatomy.packed import Packed


@dataclass(frozen=True)
class SelectedTensor:
    """One trained parameter; `slices` is None when all of it is trained.

    `numel` counts the trained entries.
    """

    name: str
    tower: str
    part: str
    numel: int
    slices: tuple[Slice, ...] | None = None

    @property
    def region(self) -> Region | None:
        """The trained entries, None when all are."""
        if self.slices is None:
            return None
        ranges = (cut for piece in self.slices for cut in piece.ranges)
        return Region.of(self.slices[0].dim, ranges)

    def to_dict(self) -> dict[str, Any]:
        """The tensor as `select --json` prints it."""
        slices = None if self.slices is None else [s.to_dict() for s in self.slices]
        return {
            "name": self.name,
            "tower": self.tower,
            "part": self.part,
            "slices": slices,
            "numel": self.numel,
        }


@dataclass(frozen=True)
class Selection:
    """What is trained: the tensors, in the model's order, and the words that asked for them.

    Attributes:
        anatomy: The model the terms were resolved against.
        terms: What to train.
        keep: What to leave out of it.
        tensors: The trained parameters; a tied one appears once, under its owner's name.
        notes: What a careful user wants to know, such as a tie that reaches further.
    """

    anatomy: Anatomy = field(repr=False)
    terms: tuple[str, ...]
    keep: tuple[str, ...]
    tensors: tuple[SelectedTensor, ...] = field(repr=False)
    notes: tuple[str, ...] = ()

    @cached_property
    def trained(self) -> tuple[str, ...]:
        """Names of the trained parameters."""
        return tuple(tensor.name for tensor in self.tensors)

    @cached_property
    def regions(self) -> dict[str, Region | None]:
        """Which entries of each trained parameter are trained, None for all of them."""
        return {tensor.name: tensor.region for tensor in self.tensors}

    @property
    def trained_numel(self) -> int:
        """How many numbers are trained."""
        return sum(tensor.numel for tensor in self.tensors)

    @property
    def total_numel(self) -> int:
        """How many numbers the model's parameters hold, tied ones counted once."""
        return self.anatomy.total_numel

    @property
    def frozen(self) -> int:
        """How many parameter tensors stay as they are."""
        return sum(tensor.tied_to is None for tensor in self.anatomy.parameters) - len(self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """The selection as `select --json` prints it."""
        return {
            "terms": list(self.terms),
            "keep": list(self.keep),
            "trained": [tensor.to_dict() for tensor in self.tensors],
            "trained_numel": self.trained_numel,
            "total_numel": self.total_numel,
            "frozen": self.frozen,
            "notes": list(self.notes),
        }

    def apply(self, model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
        """What an optimiser is to train, after setting `requires_grad` on every parameter.

        True on the selected ones, False on all others. It is set on parameters, never on
        modules, where it would be an attribute without effect. Where only slices of a tensor are
        trained, its module gets a parameter that holds these entries alone (see `windows`), so
        that no optimiser, decay or clipping can touch the others. `state_dict` and
        `load_state_dict` keep the plain names and shapes; `release` undoes it.

        Returns:
            Each trained parameter under its plain name, a sliced one in the shape of its slices.

        Raises:
            InputError: If the model is not the one the selection was made for.
        """
        from narrowtune.anatomy.packed import packed_parameters
        from narrowtune.anatomy.windows import open_window, release

        release(model)
        parameters = dict(model.named_parameters(remove_duplicate=False))
        packed = packed_parameters(model)
        pieces = {piece for one in packed.values() for piece in one.pieces}
        problems = _packed_problems(self, packed) or _mismatches(
            [tensor for tensor in self.anatomy.parameters if tensor.name not in packed],
            {name: one for name, one in parameters.items() if name not in pieces},
        )
        if problems:
            raise InputError(problems)
        for parameter in parameters.values():
            parameter.requires_grad = False
        for name, region in self.regions.items():
            parameters[name].requires_grad = True
            if region is not None:
                open_window(model, name, region)
        return [(name, parameters[name]) for name in self.trained]


def select(anatomy: Anatomy, terms: Sequence[str], keep: Sequence[str] = ()) -> Selection:
    """The union of `terms` minus the union of `keep`; `Anatomy.select` explains.

    Raises:
        InputError: With every term that is wrong, or if nothing is left to train.
    """
    matcher = Matcher(anatomy)
    problems = [*_not_a_list("terms", terms), *_not_a_list("keep", keep)]
    if problems:
        raise InputError(problems)
    trained, missed = matcher.union(terms)
    kept, missed_keep = matcher.union(keep)
    if missed or missed_keep:
        raise InputError([*missed, *missed_keep])
    atoms = trained - kept
    if not terms or not atoms:
        raise InputError(_nothing(matcher, terms, keep))
    names = {name for name, _ in atoms}
    return Selection(
        anatomy=anatomy,
        terms=tuple(terms),
        keep=tuple(keep),
        tensors=tuple(_selected(t, atoms) for t in anatomy.parameters if t.name in names),
        notes=tuple(matcher.notes(terms, keep, names)),
    )


def _selected(tensor: TensorInfo, atoms: Atoms) -> SelectedTensor:
    """A tensor of which at least one atom is selected; all of its slices are the whole."""
    slices = tuple(s for s in tensor.slices or () if (tensor.name, s.part) in atoms)
    if len(slices) == len(tensor.slices or ()):
        return SelectedTensor(tensor.name, tensor.tower, tensor.part, tensor.numel)
    numel = sum(piece.numel(tensor.shape) for piece in slices)
    return SelectedTensor(tensor.name, tensor.tower, tensor.part, numel, slices)


def _not_a_list(what: str, given: Any) -> list[str]:
    """A bare string is a sequence of letters to Python; none of them would be a term."""
    if isinstance(given, str):
        return [f"{what} is a list of terms: write [{given!r}]"]
    if not isinstance(given, list | tuple):
        return [f"{what} is a list of terms, not {type(given).__name__}"]
    return [f"{what}: {term!r} is no text" for term in given if not isinstance(term, str)]


def _nothing(matcher: Matcher, terms: Sequence[str], keep: Sequence[str]) -> str:
    if terms:
        asked, kept = ", ".join(terms), ", ".join(keep)
        return f"nothing is left to train: keeping {kept} frozen removes all of {asked}"
    return f"no terms given, so nothing would be trained; {matcher.vocabulary()}"


def _packed_problems(selection: Selection, packed: Mapping[str, Packed]) -> list[str]:
    """Why what a model keeps packed does not fit the selection; empty if it does."""
    shapes = {tensor.name: tensor.shape for tensor in selection.anatomy.parameters}
    trained = [name for name in selection.trained if name in packed]
    strange = [name for name, one in packed.items() if shapes.get(name) != one.shape]
    return [
        *_list_some("selected, but quantised in this model, and what is trained can't be", trained),
        *_list_some("the model quantises what the selection does not know so", strange),
    ]


def _mismatches(
    tensors: Iterable[TensorInfo], parameters: Mapping[str, torch.nn.Parameter]
) -> list[str]:
    """Why these parameters are not the anatomy's; empty if they are."""
    expected = {tensor.name: tensor for tensor in tensors}
    missing = [name for name in expected if name not in parameters]
    extra = [name for name in parameters if name not in expected]
    problems = [
        *_list_some("the model lacks parameters that the selection was made for", missing),
        *_list_some("the model has parameters that the selection does not know", extra),
    ]
    if problems:
        return problems
    shapes = [n for n, t in expected.items() if tuple(parameters[n].shape) != t.shape]
    ties = [
        n for n, t in expected.items() if t.tied_to and parameters[n] is not parameters[t.owner]
    ]
    return [
        *_list_some("the model's shapes differ from those the selection was made for", shapes),
        *_list_some("no longer tied, as they were in the selection's model", ties),
    ]


def _list_some(sentence: str, names: Sequence[str], limit: int = 3) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return [f"{sentence}: {', '.join(names[:limit])}{more}"]
