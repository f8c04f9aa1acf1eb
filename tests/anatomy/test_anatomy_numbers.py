"""That the naming is right, by numbers: what a tensor is called, the forward must bear out.

Each family's real class is built tiny with random weights and reads a text once, or looks at an
image. `tiny_families.toml` lists the families that can't be run, and the laws that a family does
not keep, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from naming_laws import Subject, broken_attention, broken_mlps, out_of_order, unnamed, unused
from tiny_families import cases, family_of, seeing_cases, table, tiny_config

from narrowtune.models.gallery import exceptions, families, sample_config
from narrowtune.models.skeleton import build_skeleton

EXCLUDED: dict[str, str] = {**exceptions(), **table()["excluded"]}


def _sampled(cases: Iterable[str], sample: str) -> list[object]:
    """Test parameters; those outside the named sample are slow."""
    return [
        pytest.param(case, marks=[] if case in table()[sample] else pytest.mark.slow)
        for case in cases
        if family_of(case) not in EXCLUDED
    ]


@pytest.mark.parametrize("case", _sampled(cases(), "sample"))
def test_names_are_what_the_forward_does(case: str) -> None:
    subject = Subject(case)
    assert broken_attention(subject) == []
    assert broken_mlps(subject) == []
    assert out_of_order(subject) == []
    assert unnamed(subject) == []
    assert unused(subject) == []
    assert subject.needless_excuses() == set()


@pytest.mark.parametrize("case", _sampled(seeing_cases(), "seeing_sample"))
def test_names_are_what_the_vision_forward_does(case: str) -> None:
    subject = Subject(case, "vision")
    assert broken_attention(subject) == []
    assert broken_mlps(subject) == []
    assert out_of_order(subject) == []
    assert subject.needless_excuses() == set()


@pytest.mark.slow
@pytest.mark.parametrize("family", [f for f in families() if f not in EXCLUDED])
def test_tiny_models_have_every_kind_of_tensor_of_the_family(family: str) -> None:
    """So no kind of layer escapes the laws."""
    full, tiny = (
        {
            re.sub(r"\.\d+(?=\.)", ".*", name)
            for name, _ in build_skeleton(config).named_parameters()
        }
        for config in (sample_config(family), tiny_config(family))
    )
    assert full - tiny == set()


def _renamed(subject: Subject, renamed: dict[str, str]) -> Subject:
    subject.entries = [replace(e, part=renamed.get(e.part, e.part)) for e in subject.entries]
    return subject


@pytest.mark.parametrize("pair", [("attn.q", "attn.k"), ("attn.k", "attn.v"), ("attn.v", "attn.o")])
def test_names_that_change_places_are_found_out(pair: tuple[str, str]) -> None:
    one, other = pair
    assert broken_attention(_renamed(Subject("llama"), {one: other, other: one}))


def test_a_gate_called_up_is_found_out() -> None:
    swapped = {"mlp.gate": "mlp.up", "mlp.up": "mlp.gate"}
    assert broken_mlps(_renamed(Subject("llama"), swapped))
    assert broken_mlps(_renamed(Subject("llama"), {"mlp.gate": "other"}))


def test_a_weight_without_a_name_is_found_out() -> None:
    subject = Subject("llama")
    subject.entries = [
        replace(e, tensor=replace(e.tensor, part="other")) if e.part == "mlp.down" else e
        for e in subject.entries
    ]
    assert unnamed(subject)


def test_rows_off_by_one_are_found_out() -> None:
    subject = Subject("deepseek_v3")
    subject.entries = [
        replace(e, ranges=tuple((lo + 1, hi + 1) for lo, hi in e.ranges))
        if e.part == "attn.kv"
        else e
        for e in subject.entries
    ]
    assert broken_attention(subject)


def test_layers_counted_backwards_are_found_out() -> None:
    subject = Subject("llama")
    subject.entries = [
        replace(e, tensor=replace(e.tensor, layer=e.tensor.layer and -e.tensor.layer))
        for e in subject.entries
    ]
    assert out_of_order(subject)


def test_a_tensor_without_effect_is_found_out() -> None:
    subject = Subject("llama")
    with torch.no_grad():
        subject.parameters["model.layers.1.self_attn.o_proj.weight"].zero_()
    assert "model.layers.1.self_attn.v_proj.weight attn.v" in unused(subject)
