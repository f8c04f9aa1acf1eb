"""Terms, recipes, ties, errors, and what `apply` does to a model."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from anatomy_models import TINY, tiny, tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from narrowtune.anatomy import RECIPES, Anatomy, Region
from narrowtune.anatomy.terms import parse_term
from narrowtune.errors import InputError
from narrowtune.models.gallery import sample_config
from narrowtune.models.skeleton import model_class

ANATOMY = tiny("qwen2_5_vl")
EMBED, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
bounds = st.none() | st.integers(-4, 4)
plain_terms = st.sampled_from(
    [
        *RECIPES,
        "language.attn",
        "language.attn.q",
        "language.mlp.gate",
        "language.embed",
        "language.head",
        "language.norm",
        "vision.attn.qkv",
        "vision.attn.q",
        "vision.attn.v[1:]",
        "vision.mlp",
        "connector.mlp.up",
        "language.mlp[0:1]",
        "vision[-1:]",
        "name:*.norm*.weight",
    ]
)
term_lists = st.lists(plain_terms, min_size=1, max_size=4)


def trained(terms: list[str], keep: list[str] | None = None) -> set[tuple[str, str]]:
    """What is trained: parameters by name, each with its part or each of its slices' parts."""
    fused = {t.name: t.slices for t in ANATOMY.parameters if t.slices}
    return {
        (tensor.name, part)
        for tensor in ANATOMY.select(terms, keep=keep or []).tensors
        for part in (
            [piece.part for piece in tensor.slices or fused.get(tensor.name, ())] or [tensor.part]
        )
    }


def problems(anatomy: Anatomy, terms: list[str], keep: list[str] | None = None) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        anatomy.select(terms, keep=keep or [])
    return caught.value.problems


def real_model(family: str, **changes: Any) -> nn.Module:
    """A two-layer model with weights."""
    config = tiny_config(family, **changes)
    model: nn.Module = model_class(config)(config)
    return model


@given(term_lists, term_lists)
def test_a_selection_is_the_union_of_its_terms(a: list[str], b: list[str]) -> None:
    assert trained(a + b) == trained(a) | trained(b) == trained(b + a)
    assert trained(a + a) == trained(a)


@given(term_lists, term_lists)
def test_keep_is_subtracted(terms: list[str], keep: list[str]) -> None:
    left = trained(terms) - trained(keep)
    if left:
        assert trained(terms, keep) == left
    else:
        (problem,) = problems(ANATOMY, terms, keep)
        assert "nothing is left to train" in problem


@given(bounds, bounds, st.none() | st.integers(-3, 3).filter(bool))
def test_layer_ranges_are_pythons_slices(lo: int | None, hi: int | None, step: int | None) -> None:
    spelled = ":".join("" if edge is None else str(edge) for edge in (lo, hi))
    spelled += "" if step is None else f":{step}"
    layers = set(range(2)[slice(lo, hi, step)])
    if not layers:
        (problem,) = problems(ANATOMY, [f"language.mlp[{spelled}]"])
        assert "2 layers (0 to 1)" in problem
        return
    by_name = {tensor.name: tensor for tensor in ANATOMY.parameters}
    found = trained([f"language.mlp[{spelled}]"])
    assert {by_name[name].layer for name, _ in found} == layers
    assert found <= trained(["language.mlp"])


@given(term_lists)
def test_the_counts_add_up(terms: list[str]) -> None:
    selection = ANATOMY.select(terms)
    owners = [tensor for tensor in ANATOMY.parameters if tensor.tied_to is None]
    assert len(selection.trained) + selection.frozen == len(owners)
    by_name = {tensor.name: tensor for tensor in owners}
    assert selection.trained_numel == sum(
        by_name[t.name].numel * len(t.slices or "123") // 3 for t in selection.tensors
    )
    assert selection.total_numel == sum(tensor.numel for tensor in owners)


@settings(max_examples=200)
@given(st.text(alphabet="language.mlpvison[]:-0123*name ", max_size=24))
def test_any_text_is_a_term_or_one_clear_problem(text: str) -> None:
    try:
        assert ANATOMY.select([text]).trained
    except InputError as error:
        assert len(error.problems) == 1
        assert repr(text) in error.problems[0]


@pytest.mark.parametrize("family", TINY)
def test_recipes_divide_the_model_as_the_design_says(family: str) -> None:
    anatomy = tiny(family)

    def names(*terms: str) -> set[str]:
        return set(anatomy.select(list(terms)).trained)

    assert names("gate-up") | names("down") == names("mlp") == names("language.mlp")
    assert not names("gate-up") & names("down")
    assert names("attention") == names("language.attn")
    assert names("attention") - names("attention-qkv") == names("language.attn.o")
    body, ends = names("language-body"), names("language.embed", "language.head")
    assert not body & ends
    assert body | ends == names("language")
    assert body == names("attention", "mlp", "language.norm")
    owners = {tensor.name for tensor in anatomy.parameters if tensor.tied_to is None}
    assert names("full") == owners


def test_attention_has_biases_and_no_norms() -> None:
    with_norms = tiny("qwen3").select(["attention"])
    assert not [name for name in with_norms.trained if "norm" in name]
    assert [name for name in tiny("llama").select(["attention"]).trained if name.endswith(".bias")]


def test_a_recipe_the_model_lacks_is_told_as_such() -> None:
    sizes = tiny("llama").recipe_sizes()
    assert set(sizes) == set(RECIPES)
    assert sizes["vision"] is None and sizes["connector"] is None
    assert sizes["full"] == tiny("llama").total_numel
    (problem,) = problems(tiny("llama"), ["vision"])
    assert "'vision' selects nothing" in problem and "towers here: language" in problem


def test_a_tie_reaches_both_ends_and_says_so() -> None:
    selection = ANATOMY.select(["language.head"])
    assert selection.trained == (EMBED,)
    (note,) = selection.notes
    assert note.startswith("language.head is tied to language.embed")
    assert EMBED not in ANATOMY.select(["language-body"]).trained
    kept = ANATOMY.select(["language"], keep=["language.head"])
    assert EMBED not in kept.trained and "kept frozen for both" in kept.notes[0]
    assert ANATOMY.select(["language"]).notes == ()
    assert ANATOMY.select([f"name:{HEAD}"]).trained == (EMBED,)


def test_every_bad_term_is_told_at_once_with_the_nearest() -> None:
    told = problems(
        ANATOMY,
        ["language.mlp.gat", "gate-upp", "language.mlp", "Language", "audio", "vision[7:]"],
        keep=["name:*.gate_proj.weigth", "mlp[0:1]", "language.attn[first]", "a term"],
    )
    expected = (
        "'language.mlp.gate'",
        "'gate-up'",
        "'language'",
        "no audio tower; towers here: language, vision, connector",
        "its vision tower has 2 layers (0 to 1)",
        "'name:*.gate_proj.weight'",
        "a recipe takes no layer range; write language.mlp.gate[0:1]",
        "[first] is no layer range",
        "'a term' is not a term; write TOWER",
    )
    assert len(told) == len(expected)
    for problem, hint in zip(told, expected, strict=True):
        assert hint in problem


def test_a_string_is_not_taken_for_a_list_of_letters() -> None:
    assert problems(ANATOMY, "language") == ("terms is a list of terms: write ['language']",)  # type: ignore[arg-type]


@pytest.mark.parametrize("terms", [None, 3, {"language"}, [None], ["language", 3]])
def test_what_is_no_list_of_words_is_refused(terms: Any) -> None:
    assert re.match(
        "terms(?: is a list of terms, not|: .* is no text)", problems(ANATOMY, terms)[0]
    )


def test_a_range_in_which_a_part_is_not_says_where_it_is() -> None:
    anatomy = Anatomy.of(sample_config("deepseek_v3"))
    (problem,) = problems(anatomy, ["language.mlp.gate[4:]"])
    assert problem.endswith("has 61 layers (0 to 60), and language.mlp.gate is in 0-2")
    (problem,) = problems(ANATOMY, ["language.embed[0:1]"])
    assert problem.endswith("language.embed is in no layer")


def test_no_terms_and_buffers_are_refused() -> None:
    assert "no terms given" in problems(ANATOMY, [])[0]
    assert "buffers, which are not trainable" in problems(ANATOMY, ["name:*inv_freq"])[0]


def test_what_a_user_may_overlook_is_noted() -> None:
    (idle,) = ANATOMY.select(["gate-up"], keep=["vision"]).notes
    assert "keep 'vision' removes nothing" in idle
    (far,) = ANATOMY.select(["language.mlp[1:9]"]).notes
    assert "reaches past the 2 layers" in far
    (inside,) = ANATOMY.select(["language.mlp.up", "gate-up"]).notes
    assert "'language.mlp.up' adds nothing: 'gate-up' trains all of it already" in inside
    (twice,) = ANATOMY.select(["vision.attn", "vision.mlp", "vision.attn"]).notes
    assert twice == "'vision.attn' is given twice"


def test_slices_of_a_fused_tensor_are_selected_by_their_own_words() -> None:
    kept = ANATOMY.select(["vision.attn"], keep=["vision.attn.k", "vision.attn.o"])
    query = ANATOMY.select(["vision.attn.q"])
    assert kept.trained == query.trained == ANATOMY.select(["vision.attn.qkv"]).trained
    weight = kept.tensors[0]
    assert weight.region == Region(0, ((0, 24), (48, 72))) and weight.numel == 2 * 24 * 24
    assert query.tensors[0].region == Region(0, ((0, 24),))
    told = query.to_dict()["trained"][0]
    assert told["slices"] == [{"part": "attn.q", "dim": 0, "ranges": [[0, 24]]}]
    whole = ANATOMY.select(["vision.attn.q", "vision.attn.k", "vision.attn.v"])
    assert whole.tensors == ANATOMY.select(["vision.attn.qkv"]).tensors
    assert all(tensor.slices is None for tensor in whole.tensors)


def test_a_tensor_whose_layout_is_not_known_is_told_as_such() -> None:
    """Without a config nobody knows how many heads the rows of a fused tensor belong to."""
    model = nn.Module()
    model.layers = nn.ModuleList([nn.ModuleDict({"self_attn": nn.Module()})])
    model.layers[0]["self_attn"].qkv_proj = nn.Linear(4, 12)  # type: ignore[index, operator]
    anatomy = Anatomy.of(model)
    (problem,) = problems(anatomy, ["language.attn.q"])
    assert "in one tensor that no table divides; take language.attn.qkv whole" in problem
    assert anatomy.select(["attention"]).trained_numel == 60


def test_an_mlp_without_a_gate_is_told_as_such() -> None:
    (problem,) = problems(tiny("qwen2_vl"), ["vision.mlp.gate"])
    assert "its mlp has no gate, only vision.mlp.up and .down" in problem


def test_selections_are_values() -> None:
    one, other = ANATOMY.select(["gate-up"]), tiny("qwen2_5_vl").select(["gate-up"])
    assert one == other and hash(one) == hash(other)
    assert one != ANATOMY.select(["down"])
    told = one.to_dict()
    assert {"trained", "trained_numel", "total_numel", "frozen"} <= set(told)
    assert {"name", "part", "slices", "numel"} <= set(told["trained"][0])


@pytest.mark.parametrize("family", TINY)
def test_apply_sets_parameters_and_nothing_else(family: str) -> None:
    model = real_model(family)
    selection = Anatomy.of(model).select(["gate-up"])
    pairs = selection.apply(model)
    assert tuple(name for name, _ in pairs) == selection.trained
    state = dict(model.named_parameters())
    assert all(state[name] is parameter for name, parameter in pairs)
    assert {name for name, p in state.items() if p.requires_grad} == set(selection.trained)
    assert not [path for path, module in model.named_modules() if "requires_grad" in vars(module)]
    Anatomy.of(model).select(["down"]).apply(model)
    assert all(not parameter.requires_grad for _, parameter in pairs)


def test_gradients_reach_the_selection_alone() -> None:
    model = real_model("qwen2")
    selection = Anatomy.of(model).select(["attention"])
    selection.apply(model)
    tokens = torch.arange(6).reshape(1, 6)
    model(input_ids=tokens, labels=tokens).loss.backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == set(selection.trained)


def test_apply_refuses_another_model() -> None:
    selection = tiny("qwen2").select(["gate-up"])
    with pytest.raises(InputError, match=r"lacks parameters.*layers\.0\.self_attn\.q_proj\.bias"):
        selection.apply(real_model("mistral"))
    with pytest.raises(InputError, match="shapes differ"):
        selection.apply(real_model("qwen2", intermediate_size=64))
    with pytest.raises(InputError, match=r"no longer tied.*lm_head\.weight"):
        selection.apply(real_model("qwen2", tie_word_embeddings=False))


def test_parsed_terms_are_equal_when_spelled_alike() -> None:
    assert parse_term("language.mlp[ -2 : ]") == parse_term("language.mlp[-2:]")
    assert parse_term("language.mlp[:]") != parse_term("language.mlp")


def test_importing_anatomy_imports_no_torch() -> None:
    code = "import narrowtune.anatomy, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
