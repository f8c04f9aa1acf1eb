"""Every family's anatomy as a golden text; run as a script it writes `golden/`, or prints one.

python tests/anatomy/gallery_models.py             # writes all
python tests/anatomy/gallery_models.py phi3 gpt2   # prints these
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from narrowtune.anatomy import Anatomy, Slice, TensorInfo
from narrowtune.anatomy.wording import ranges, shortened
from narrowtune.models.gallery import exceptions, families, sample_config

GOLDEN = Path(__file__).parent / "golden"


def golden_text(anatomy: Anatomy) -> str:
    """A line for all tensors that differ in numbers alone: `names -> tower.part[layers]`."""
    tensors = {t.name: t for t in (*anatomy.parameters, *anatomy.buffers)}
    alike = {name: _facts(tensor) for name, tensor in tensors.items()}
    lines = (
        f"{pattern} -> {_term(tensors[name] for name in names)}{alike[names[0]][1]}"
        for pattern, names in shortened(alike)
    )
    return f"# {anatomy.class_name}\n" + "".join(f"{line}\n" for line in lines)


def _term(tensors: Iterable[TensorInfo]) -> str:
    members = list(tensors)
    layers = [t.layer for t in members if t.layer is not None]
    return members[0].term + (f"[{ranges(layers)}]" if layers else "")


def _facts(tensor: TensorInfo) -> tuple[str, str]:
    """What tensors on one line share: the term, and what else is special about them."""
    marks = []
    if tensor.slices:
        cuts = ", ".join(map(_cuts, tensor.slices))
        marks.append(f"{list(tensor.shape)} dim {tensor.slices[0].dim}: {cuts}")
    if tensor.tied_to:
        marks.append(f"tied to {tensor.tied_to}")
    if tensor.buffer:
        marks.append("buffer" if tensor.persistent else "buffer, in no checkpoint")
    return tensor.term, "".join(f"  ({mark})" for mark in marks)


def _cuts(piece: Slice, shown: int = 2) -> str:
    first = " ".join(f"{lo}:{hi}" for lo, hi in piece.ranges[:shown])
    more = len(piece.ranges) - shown
    return f"{piece.part} {first}" + (f" and {more} more" if more > 0 else "")


if __name__ == "__main__":
    for family in sys.argv[1:]:
        print(golden_text(Anatomy.of(sample_config(family))))
    GOLDEN.mkdir(exist_ok=True)
    for family in () if sys.argv[1:] else families():
        if family not in exceptions():
            text = golden_text(Anatomy.of(sample_config(family)))
            (GOLDEN / f"{family}.txt").write_text(text, encoding="utf-8")
