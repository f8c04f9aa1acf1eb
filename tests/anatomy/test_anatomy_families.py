"""Every family of the installed transformers: named as its golden file says, and as the words mean.

A release that renames a weight fails one test with a readable difference. After a change that is
right, `python tests/anatomy/gallery_models.py` writes the files anew; read them line by line.
"""

from __future__ import annotations

from functools import lru_cache

import pytest
from gallery_models import GOLDEN, golden_text

from narrowtune.anatomy import TOWERS, Anatomy
from narrowtune.anatomy.tables import family_tables, general_table
from narrowtune.anatomy.tensors import FUSED
from narrowtune.models.gallery import exceptions, families, sample_config
from narrowtune.models.skeleton import build_skeleton

PARTS = {
    *(f"attn.{role}" for role in ("q", "k", "v", "o", "kv", "gate", "sink", "indexer")),
    *(
        f"{block}.{half}"
        for block in ("mlp", "experts", "shared")
        for half in ("gate", "up", "down")
    ),
    *FUSED,
    *("router", "mixer", "norm", "embed", "head", "pos", "other"),
}
# Fused language tensors of which only the whole can be selected, with why.
CLOSED = {
    "zamba2": "gate and up share the low-rank half of the shared block's adapters",
    "muse_spark": "gate and up of the experts share the way into their latent space",
    "reformer": "one tensor gives queries and keys alike",
}
BUILT = [family for family in families() if family not in exceptions()]
EVERY = 5
# The default suite takes each fifth family and those that others are built from.
SAMPLE = {*BUILT[::EVERY], "llama", "qwen2_5_vl", "llava_onevision", "phi3", "gpt2", "gpt_oss"}
FAMILIES = [
    pytest.param(family, marks=() if family in SAMPLE else pytest.mark.slow) for family in BUILT
]


@lru_cache(maxsize=4)
def anatomy_of(family: str) -> Anatomy:
    return Anatomy.of(sample_config(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_named_as_its_golden_file_says(family: str) -> None:
    assert golden_text(anatomy_of(family)) == (GOLDEN / f"{family}.txt").read_text("utf-8")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_words_are_those_of_the_design(family: str) -> None:
    anatomy = anatomy_of(family)
    assert set(anatomy.towers) <= set(TOWERS) and "language" in anatomy.towers
    for tensor in anatomy.parameters:
        assert tensor.part in PARTS, tensor
        for piece in tensor.slices or ():
            assert piece.part in PARTS - FUSED.keys(), tensor
            assert piece.part in FUSED.get(tensor.part, (piece.part,)), tensor


@pytest.mark.parametrize("family", FAMILIES)
def test_slices_share_a_tensor_out_without_rest(family: str) -> None:
    for tensor in anatomy_of(family).parameters:
        if tensor.slices:
            (dim,) = {piece.dim for piece in tensor.slices}
            ranges = sorted(cut for piece in tensor.slices for cut in piece.ranges)
            edges = [edge for cut in ranges for edge in cut]
            assert edges[0] == 0 and edges[-1] == tensor.shape[dim], tensor.name
            assert edges[1:-1:2] == edges[2:-1:2], tensor.name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_language_tower_has_no_tensor_of_unknown_layout(family: str) -> None:
    closed = {
        tensor.name
        for tensor in anatomy_of(family).parameters
        if tensor.tower == "language" and tensor.part in FUSED and tensor.slices is None
    }
    assert bool(closed) == (family in CLOSED), sorted(closed)[:3]


@pytest.mark.parametrize("family", FAMILIES)
def test_recipes_stay_in_their_parts(family: str) -> None:
    anatomy = anatomy_of(family)
    sizes = anatomy.recipe_sizes()
    assert sizes["language"] and sizes["full"] == anatomy.total_numel
    assert any(sizes[recipe] for recipe in ("attention", "gate-up")) or _mixes_only(anatomy)
    gate_up, down, mlp = (sizes[recipe] or 0 for recipe in ("gate-up", "down", "mlp"))
    assert gate_up + down == mlp
    for recipe in ("attention", "gate-up", "down"):
        if sizes[recipe]:
            assert {t.tower for t in anatomy.select([recipe]).tensors} == {"language"}


def _mixes_only(anatomy: Anatomy) -> bool:
    """State-space models without attention or MLP."""
    return not any(t.part.startswith(("attn", "mlp", "experts")) for t in anatomy.parameters)


@pytest.mark.parametrize("family", FAMILIES)
def test_ties_are_the_ones_the_module_has(family: str) -> None:
    anatomy, module = anatomy_of(family), build_skeleton(sample_config(family))
    shared = dict(module.named_parameters(remove_duplicate=False))
    for tensor in anatomy.parameters:
        if tensor.tied_to:
            assert shared[tensor.name] is shared[tensor.tied_to]
    assert anatomy.total_numel == sum(p.numel() for p in module.parameters())


def test_every_row_of_a_family_file_is_well_formed() -> None:
    """Reading a table checks its keys; a row must name a word we know."""
    tables = [general_table(), *(table for name in _files() for table in family_tables(name))]
    for table in tables:
        assert {row.label for row in table.towers} <= set(TOWERS)
        for row in table.parts:
            assert row.label in PARTS, row.pattern.pattern
            if row.fused is not None:
                assert set(row.fused.parts) <= PARTS - FUSED.keys(), row.pattern.pattern


def _files() -> list[str]:
    from importlib.resources import files

    folder = files("narrowtune.anatomy").joinpath("families")
    return [entry.name.removesuffix(".toml") for entry in folder.iterdir()]


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(BUILT)
    assert len(BUILT) > 240
