"""The words that ask for a selection.

`TOWER`, `TOWER.PART`, `TOWER.PART[lo:hi]` and the escape `name:GLOB`; recipes are in `recipes`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from narrowtune.anatomy.tensors import TensorInfo
from narrowtune.errors import InputError

NAME_PREFIX = "name:"
_TERM = re.compile(
    # Wider than any known word, so that a misspelt one reaches the search for the nearest.
    r"(?P<tower>[\w-]+)(?:\.(?P<part>[\w.-]+))?(?:\[(?P<layers>[^\[\]]*)\])?"
)
_RANGE = re.compile(r"\s*(-?\d+)?\s*:\s*(-?\d+)?\s*(?::\s*(-?\d+)?\s*)?")


@dataclass(frozen=True)
class NameTerm:
    """`name:GLOB`, the escape: tensors by their own names."""

    glob: str

    def matches(self, tensor: TensorInfo) -> bool:
        """Whether the glob covers the tensor's whole name."""
        return fnmatchcase(tensor.name, self.glob)


@dataclass(frozen=True)
class PartTerm:
    """`TOWER`, `TOWER.PART` or a group of parts (`language.attn`), perhaps of some layers.

    Attributes:
        tower: The tower's name.
        part: A part or a group's prefix; None for the whole tower.
        layers: Start, stop and step of a Python slice; None for all, layerless tensors too.
    """

    tower: str
    part: str | None = None
    layers: tuple[int | None, int | None, int | None] | None = None

    def within(self, depth: int) -> frozenset[int] | None:
        """The layers asked for in a tower `depth` layers deep, None for no restriction."""
        return None if self.layers is None else frozenset(range(depth)[slice(*self.layers)])

    def covers(self, part: str) -> bool:
        """Whether a part is the one asked for or a member of the group asked for."""
        return self.part is None or part == self.part or part.startswith(self.part + ".")


def parse_term(text: str) -> NameTerm | PartTerm:
    """The term a text spells.

    Raises:
        InputError: If it spells none; the message shows the forms there are.
    """
    if text.startswith(NAME_PREFIX) and len(text) > len(NAME_PREFIX):
        return NameTerm(text.removeprefix(NAME_PREFIX))
    match = _TERM.fullmatch(text.strip())
    if match is None:
        raise InputError(
            f"{text!r} is not a term; write TOWER, TOWER.PART, TOWER.PART[lo:hi], name:GLOB "
            "or the name of a recipe"
        )
    layers = None if match["layers"] is None else _parse_range(text, match["layers"])
    return PartTerm(match["tower"], match["part"], layers)


def _parse_range(text: str, written: str) -> tuple[int | None, int | None, int | None]:
    match = _RANGE.fullmatch(written)
    if match is None or (match[3] is not None and int(match[3]) == 0):
        raise InputError(
            f"{text!r}: [{written}] is no layer range; write a Python slice, such as [0:4] for "
            "the first four layers, [-4:] for the last four or [3:4] for layer 3 alone"
        )
    lo, hi, step = (None if group is None else int(group) for group in match.groups())
    return lo, hi, step
