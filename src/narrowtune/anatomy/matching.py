"""Terms and recipes matched against one model's tensors, and what to say when they miss.

The unit is the atom, a parameter (by its owner's name) with one of its roles: a tensor with one
role is one atom, a fused one has an atom per slice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from narrowtune.anatomy.recipes import RECIPES
from narrowtune.anatomy.tensors import FUSED, TOWERS, TensorInfo
from narrowtune.anatomy.terms import NAME_PREFIX, NameTerm, PartTerm, parse_term
from narrowtune.anatomy.wording import ranges
from narrowtune.errors import InputError, nearest

if TYPE_CHECKING:
    from narrowtune.anatomy.anatomy import Anatomy

Atom = tuple[str, str]
Atoms = frozenset[Atom]


def _atoms(tensor: TensorInfo) -> Atoms:
    parts = [s.part for s in tensor.slices] if tensor.slices else [tensor.part]
    return frozenset((tensor.name, part) for part in parts)


class Matcher:
    """One model's atoms and the terms that reach them."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.atoms = {t.name: _atoms(t) for t in anatomy.parameters if t.tied_to is None}

    def union(self, terms: Sequence[str]) -> tuple[Atoms, list[str]]:
        """All atoms the terms reach, and a problem for every term that reaches none."""
        reached: set[Atom] = set()
        problems: list[str] = []
        for term in dict.fromkeys(terms):
            try:
                atoms = self.reach(term)
            except InputError as error:
                problems.extend(error.problems)
            else:
                reached |= atoms
                problems.extend([] if atoms else [self._missed(term)])
        return frozenset(reached), problems

    def reach(self, text: str) -> Atoms:
        """The atoms that one term or recipe reaches, perhaps none."""
        recipe = RECIPES.get(text.strip())
        if recipe is None:
            return self._term(parse_term(text))
        return self._reach_all(recipe.terms) - self._reach_all(recipe.keep)

    def notes(self, terms: Sequence[str], keep: Sequence[str], trained: set[str]) -> Iterator[str]:
        """What the words do not say by themselves: ties, idle keeps, clamped layers, unknowns."""
        yield from self._tie_notes(terms, "trained for both and counted once")
        yield from self._tie_notes(keep, "kept frozen for both")
        yield from self._overlap_notes(terms)
        before = self.union(terms)[0]
        for term in keep:
            if not self.reach(term) & before:
                yield f"keep {term!r} removes nothing: no term trains it"
        for term in (*terms, *keep):
            yield from self._range_note(term)
        yield from self._unknown_note(trained)

    def vocabulary(self) -> str:
        """The towers of this model and the recipes, for the end of a message."""
        return f"{self._towers_here()}; recipes: {', '.join(RECIPES)}"

    def _term(self, term: NameTerm | PartTerm) -> Atoms:
        found: set[Atom] = set()
        layers = term.within(self.anatomy.depth(term.tower)) if isinstance(term, PartTerm) else None
        for tensor in self.anatomy.parameters:
            if layers is None or tensor.layer in layers:
                found |= self._match(term, tensor)
        return frozenset(found)

    def _match(self, term: NameTerm | PartTerm, tensor: TensorInfo) -> Atoms:
        atoms = self.atoms[tensor.owner]
        if isinstance(term, NameTerm):
            return atoms if term.matches(tensor) else frozenset()
        if tensor.tower != term.tower:
            return frozenset()
        if term.covers(tensor.part):
            return atoms
        return frozenset(atom for atom in atoms if tensor.slices and term.covers(atom[1]))

    def _reach_all(self, terms: Sequence[str]) -> Atoms:
        return frozenset().union(*(self._term(parse_term(term)) for term in terms))

    def _missed(self, text: str) -> str:
        """Why a well-formed term or recipe reaches nothing, and what would."""
        where = f"{text!r} selects nothing in this {self.anatomy.family} model"
        recipe = RECIPES.get(text.strip())
        if recipe is not None:
            return f"{where}: it means {', '.join(recipe.terms)}; {self._towers_here()}"
        term = parse_term(text)
        if isinstance(term, NameTerm):
            return f"{where}; {self._near_name(term)}"
        if term.layers is not None and self._term(replace(term, layers=None)):
            return f"{where}: {self._where_it_is(term)}"
        word, bracket, layers = text.strip().partition("[")
        if word in RECIPES:
            spelled = [t + bracket + layers for t in RECIPES[word].terms if self.reach(t)]
            return f"{text!r}: a recipe takes no layer range; write {', '.join(spelled)}"
        if term.tower in TOWERS and term.tower not in self.anatomy.towers:
            return f"{where}, which has no {term.tower} tower; {self._towers_here()}"
        return f"{where}{self._why(term)}; {nearest(word, self._known())}"

    def _where_it_is(self, term: PartTerm) -> str:
        """In which layers a part is that a range missed."""
        depth = self.anatomy.depth(term.tower)
        if not depth:
            return f"its {term.tower} tower has no layers"
        reached = {name for name, _ in self._term(replace(term, layers=None))}
        layers = [t.layer for t in self.anatomy.parameters if t.owner in reached]
        inside = sorted({layer for layer in layers if layer is not None})
        has = f"its {term.tower} tower has {depth} layers (0 to {depth - 1})"
        if len(inside) == depth:
            return has
        part = f"{term.tower}.{term.part}"
        return f"{has}, and {part} is in {ranges(inside)}" if inside else f"{part} is in no layer"

    def _why(self, term: PartTerm) -> str:
        """What is known about a part that is not there: it is fused, or an MLP has no gate."""
        here = [t for t in self.anatomy.parameters if t.tower == term.tower]
        group = (term.part or "").partition(".")[0]
        whole = [t for t in here if t.part in FUSED and t.slices is None]
        closed = [t for t in whole if t.part.startswith(f"{group}.") and term.part in FUSED[t.part]]
        if closed:
            return (
                f": {closed[0].name} ({len(closed)} such) holds {', '.join(FUSED[closed[0].part])} "
                f"in one tensor that no table divides; take {closed[0].term} whole"
            )
        parts = {part for tensor in here for _, part in self.atoms[tensor.owner]}
        if term.part == f"{group}.gate" and f"{group}.up" in parts:
            return f": its {group} has no gate, only {term.tower}.{group}.up and .down"
        return ""

    def _towers_here(self) -> str:
        return f"towers here: {', '.join(self.anatomy.towers)}"

    def _near_name(self, term: NameTerm) -> str:
        if any(term.matches(buffer) for buffer in self.anatomy.buffers):
            return "it matches buffers, which are not trainable"
        globs = {re.sub(r"\.\d+(?=\.)", ".*", t.name) for t in self.anatomy.parameters}
        ends = {"*." + ".".join(glob.rsplit(".", 2)[-2:]) for glob in globs}
        return nearest(NAME_PREFIX + term.glob, [NAME_PREFIX + glob for glob in (*globs, *ends)])

    def _known(self) -> set[str]:
        """Every term that reaches something, without a layer range; recipes too."""
        known = {name for name in RECIPES if self.reach(name)}
        for tensor in self.anatomy.parameters:
            parts = {tensor.part, *(part for _, part in self.atoms[tensor.owner])}
            groups = {part.partition(".")[0] for part in parts}
            known |= {tensor.tower, *(f"{tensor.tower}.{word}" for word in parts | groups)}
        return known

    def _tie_notes(self, terms: Sequence[str], fate: str) -> Iterator[str]:
        """A note for each tie of which the terms name one end only."""
        parsed = [parse_term(t) for text in terms for t in _expand(text)]
        by_name = {tensor.name: tensor for tensor in self.anatomy.parameters}
        for alias in (t for t in self.anatomy.parameters if t.tied_to):
            owner = by_name[alias.owner]
            named = [any(self._match(term, t) for term in parsed) for t in (alias, owner)]
            if any(named) and not all(named):
                yield (
                    f"{alias.term} is tied to {owner.term}: they share one tensor, {owner.name}, "
                    f"which is {fate}"
                )

    def _overlap_notes(self, terms: Sequence[str]) -> Iterator[str]:
        """A note for each term that another one makes idle."""
        reached = {term: self.reach(term) for term in terms}
        for number, term in enumerate(terms):
            wider = [other for other in reached if reached[term] < reached[other]]
            twins = [o for o in terms[:number] if o != term and reached[term] == reached[o]]
            if term in terms[:number]:
                yield f"{term!r} is given twice"
            for other in (*wider, *twins)[:1]:
                yield f"{term!r} adds nothing: {other!r} trains all of it already"

    def _range_note(self, text: str) -> Iterator[str]:
        term = None if text.strip() in RECIPES else parse_term(text)
        if isinstance(term, PartTerm) and term.layers is not None:
            depth = self.anatomy.depth(term.tower)
            if any(edge is not None and not -depth <= edge <= depth for edge in term.layers[:2]):
                yield f"{text!r} reaches past the {depth} layers of the {term.tower} tower"

    def _unknown_note(self, trained: set[str]) -> Iterator[str]:
        """A note on what part names cannot reach, in the trained towers or an unknown one."""
        concerned = {t.tower for t in self.anatomy.parameters if t.owner in trained} | {"other"}
        unknown = [t for t in self.anatomy.parameters if "other" in (t.tower, t.part)]
        left = [t for t in unknown if t.tower in concerned and t.owner not in trained]
        if left:
            yield (
                f"{len(left)} parameters, such as {left[0].name}, are of no known tower or part "
                "and stay frozen; no term for a known part reaches them"
            )


def _expand(text: str) -> tuple[str, ...]:
    recipe = RECIPES.get(text.strip())
    return (text,) if recipe is None else recipe.terms
