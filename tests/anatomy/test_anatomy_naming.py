"""Every tensor of every family gets its tower, part and layer."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from anatomy_models import (
    LLAMA_3_8B,
    LLAVA_ONEVISION_7B,
    QWEN2_5_VL_7B,
    TINY,
    model_folder,
    tiny,
    tiny_config,
)
from torch import nn

from narrowtune.anatomy import Anatomy
from narrowtune.anatomy.naming import Naming
from narrowtune.errors import InputError
from narrowtune.models.skeleton import build_skeleton, load_config

REAL = {"qwen": QWEN2_5_VL_7B, "onevision": LLAVA_ONEVISION_7B, "llama": LLAMA_3_8B}


@pytest.fixture(scope="module", params=REAL)
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A real-sized anatomy with the dimensions its language tower was asked to have."""
    values = REAL[request.param]
    folder = model_folder(tmp_path_factory.mktemp("real") / request.param, values)
    return Anatomy.of(load_config(folder)), values.get("text_config", values)


def attention_by_hand(dims: dict[str, Any], bias: bool) -> int:
    """q, k, v, o of grouped-query attention, biases on q, k, v where the family has them."""
    hidden = dims["hidden_size"]
    key_value = hidden // dims["num_attention_heads"] * dims["num_key_value_heads"]
    weights = 2 * hidden * hidden + 2 * hidden * key_value
    return dims["num_hidden_layers"] * (weights + (hidden + 2 * key_value if bias else 0))


def gate_up_by_hand(dims: dict[str, Any]) -> int:
    return 2 * dims["num_hidden_layers"] * dims["hidden_size"] * dims["intermediate_size"]


@pytest.mark.parametrize("family", TINY)
def test_no_tensor_of_a_supported_family_is_unknown(family: str) -> None:
    anatomy = tiny(family)
    everything = (*anatomy.parameters, *anatomy.buffers)
    assert not [t.name for t in everything if "other" in (t.tower, t.part)]
    assert anatomy.family == family


def test_recipes_at_real_sizes_train_what_the_config_implies(real: Any) -> None:
    anatomy, dims = real
    bias = anatomy.family != "llama"
    for recipe, by_hand in (
        ("attention", attention_by_hand(dims, bias)),
        ("gate-up", gate_up_by_hand(dims)),
        ("down", gate_up_by_hand(dims) // 2),
    ):
        selection = anatomy.select([recipe])
        assert selection.trained_numel == by_hand
        assert {tensor.tower for tensor in selection.tensors} == {"language"}


def test_the_substring_filter_would_have_trained_the_vision_tower(tmp_path: Path) -> None:
    """The defect of the paper's released recipe, with its two sizes; ours leaves both frozen."""
    for values, needles, recipe, millions in (
        (QWEN2_5_VL_7B, ("gate_proj", "up_proj"), "gate-up", 280.4),
        (LLAVA_ONEVISION_7B, ("q_proj", "k_proj", "v_proj", "o_proj"), "attention", 103.6),
    ):
        anatomy = Anatomy.of(load_config(model_folder(tmp_path / recipe, values)))
        caught = [t for t in anatomy.parameters if any(needle in t.name for needle in needles)]
        wrong = [tensor for tensor in caught if tensor.tower == "vision"]
        assert sum(tensor.numel for tensor in wrong) / 1e6 == pytest.approx(millions, abs=0.05)
        trained = set(anatomy.select([recipe]).trained)
        assert trained == {t.name for t in caught} - {t.name for t in wrong}


def test_a_naming_that_calls_everything_language_is_found_out() -> None:
    """The law broken once: without the tower rows, gate-up is no longer the language tower's."""
    anatomy = tiny("qwen2_5_vl")
    by_hand = gate_up_by_hand(TINY["qwen2_5_vl"]["text_config"])
    careless = replace(
        anatomy, parameters=tuple(replace(t, tower="language") for t in anatomy.parameters)
    )
    assert anatomy.select(["gate-up"]).trained_numel == by_hand
    assert careless.select(["gate-up"]).trained_numel > by_hand


@pytest.mark.parametrize(
    ("name", "term", "layer"),
    [
        (f"{prefix}layers.11.mlp.gate_proj.weight", "language.mlp.gate", 11)
        for prefix in (
            "",
            "model.",
            "model.language_model.",
            "language_model.model.",
            "model.language_model.model.",
        )
    ]
    + [
        ("visual.blocks.3.mlp.gate_proj.weight", "vision.mlp.gate", 3),
        ("vision_tower.vision_model.encoder.layers.3.self_attn.q_proj.bias", "vision.attn.q", 3),
        ("visual.merger.mlp.2.weight", "connector.mlp.down", None),
        ("multi_modal_projector.linear_1.weight", "connector.mlp.up", None),
        ("image_newline", "connector.embed", None),
        ("language_model.lm_head.weight", "language.head", None),
        ("language_model.model.norm.weight", "language.norm", None),
        # what no row knows
        ("model.speech_tower.layers.0.self_attn.q_proj.weight", "other.attn.q", 0),
        ("model.layers.0.mlp.gate.weight", "language.other", 0),
        ("model.layers.0.self_attn.surprise_proj.weight", "language.other", 0),
        ("model.embed_tokens_extend.weight", "other.other", None),
    ],
)
def test_names_whatever_their_prefix(name: str, term: str, layer: int | None) -> None:
    place = Naming("qwen2_5_vl", [name]).place(name, (4, 4))
    assert (f"{place.tower}.{place.part}", place.layer) == (term, layer)


def test_what_lies_beside_a_tensor_decides_its_part() -> None:
    gate, experts = "model.layers.0.mlp.gate.weight", "model.layers.0.mlp.experts.down_proj"
    alone, beside = Naming("x", [gate]), Naming("x", [gate, experts])
    assert (alone.place(gate, (4, 4)).part, beside.place(gate, (4, 4)).part) == ("other", "router")


def test_stacks_of_one_tower_are_numbered_one_after_another() -> None:
    first = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(3)]
    second = [f"model.decoder.layers.{i}.mlp.up_proj.weight" for i in range(2)]
    vision = ["model.visual.blocks.0.mlp.up_proj.weight"]
    naming = Naming("x", [*first, *vision, *second])
    places = [naming.place(name, (4, 4)) for name in (*first, *second, *vision)]
    assert [place.tower for place in places] == ["language"] * 5 + ["vision"]
    assert [place.layer for place in places] == [0, 1, 2, 3, 4, 0]


class Newcomer(nn.Module):
    """A module no table knows, with a language model beside a tower of a new kind."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"layers": _stack(), "smell_tower": _stack()})


def _stack() -> nn.ModuleList:
    block = nn.ModuleDict({"mlp": nn.ModuleDict({"gate_proj": nn.Linear(2, 2)})})
    return nn.ModuleList([block])


def test_a_new_tower_is_other_and_is_mentioned() -> None:
    anatomy = Anatomy.of(Newcomer())
    assert anatomy.family == "Newcomer"
    assert anatomy.towers == ("language", "other")
    selection = anatomy.select(["language"])
    assert selection.trained == (
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.mlp.gate_proj.bias",
    )
    assert "smell_tower" in selection.notes[0]


@pytest.mark.parametrize("family", TINY)
def test_a_loaded_module_and_its_config_have_one_anatomy(family: str) -> None:
    config = tiny_config(family)
    skeleton = build_skeleton(config)
    assert Anatomy.of(skeleton) == Anatomy.of(config)
    assert all(parameter.is_meta for parameter in skeleton.parameters())


def test_the_dtype_is_the_configs(tmp_path: Path) -> None:
    anatomy = Anatomy.of(load_config(model_folder(tmp_path, QWEN2_5_VL_7B)))
    assert {tensor.dtype for tensor in anatomy.parameters} == {"bfloat16"}


def test_ties_are_told_and_counted_once() -> None:
    anatomy = tiny("qwen2")
    head = next(tensor for tensor in anatomy.parameters if tensor.term == "language.head")
    assert head.tied_to == "model.embed_tokens.weight"
    untied = Anatomy.of(tiny_config("qwen2", tie_word_embeddings=False))
    assert untied.total_numel == anatomy.total_numel + head.numel
    assert all(tensor.tied_to is None for tensor in untied.parameters)
    assert anatomy.to_dict()["towers"]["language"]["numel"] == anatomy.total_numel


def test_buffers_are_listed_apart_with_whether_a_checkpoint_holds_them() -> None:
    config = build_skeleton(tiny_config("llava"))
    in_checkpoint = set(config.state_dict())
    buffers = Anatomy.of(config).buffers
    assert {t.name for t in buffers} == {name for name, _ in config.named_buffers()}
    assert all(t.buffer and t.persistent == (t.name in in_checkpoint) for t in buffers)
    assert any(not t.persistent for t in buffers)


def test_fused_rows_are_the_ones_the_forward_splits() -> None:
    """Perturbing the rows of one slice changes that projection of Qwen2.5-VL's vision alone."""
    config = tiny_config("qwen2_5_vl")
    from transformers import Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    attention = model.model.visual.blocks[0].attn
    tensor = next(t for t in Anatomy.of(model).parameters if t.name.endswith("0.attn.qkv.weight"))
    hidden = torch.randn(4, attention.qkv.in_features)

    def projections() -> dict[str, torch.Tensor]:
        split = attention.qkv(hidden).reshape(4, 3, attention.num_heads, -1).permute(1, 0, 2, 3)
        return dict(zip(("attn.q", "attn.k", "attn.v"), split, strict=True))

    assert tensor.slices is not None
    for piece in tensor.slices:
        before = projections()
        with torch.no_grad():
            for lo, hi in piece.ranges:
                attention.qkv.weight[lo:hi] += 1.0
        changed = {part for part, x in projections().items() if not torch.equal(x, before[part])}
        assert changed == {piece.part}


def test_naming_a_7b_model_takes_under_a_third_of_a_second(tmp_path: Path) -> None:
    skeleton = build_skeleton(load_config(model_folder(tmp_path, QWEN2_5_VL_7B)))
    took = []
    for _ in range(3):
        start = time.perf_counter()
        Anatomy.of(skeleton)
        took.append(time.perf_counter() - start)
    assert min(took) < 0.3


@pytest.mark.parametrize("family", TINY)
def test_tower_prefixes_are_the_largest_modules_of_one_tower(family: str) -> None:
    skeleton = build_skeleton(tiny_config(family))
    anatomy = Anatomy.of(skeleton)
    for tower in anatomy.towers:
        inside = [t for t in anatomy.parameters if t.tower == tower]
        prefixes = anatomy.tower_prefixes(tower)
        for prefix in prefixes:
            module = skeleton.get_submodule(prefix)
            names = {f"{prefix}.{n}" if prefix else n for n, _ in module.named_parameters()}
            assert names <= {t.name for t in inside}
        loose = [t.name for t in inside if not any(_under(t.name, p) for p in prefixes)]
        assert loose in ([], ["model.image_newline"])


def _under(name: str, prefix: str) -> bool:
    return not prefix or name.startswith(f"{prefix}.")


def test_prefixes_of_qwens_vision_leave_the_merger_out() -> None:
    anatomy = tiny("qwen2_5_vl")
    assert anatomy.tower_prefixes("vision") == ("model.visual.patch_embed", "model.visual.blocks")
    assert anatomy.tower_prefixes("vision", "connector") == ("model.visual",)
    assert tiny("llama").tower_prefixes("language") == ("",)


def test_the_inspect_dictionary_has_the_promised_keys() -> None:
    told = tiny("qwen2_5_vl").to_dict()
    assert {"family", "class", "parameters", "towers"} <= set(told)
    assert told["class"] == "Qwen2_5_VLForConditionalGeneration"
    keys = ("name", "shape", "numel", "dtype", "tower", "part", "layer", "tied_to", "slices")
    assert all(tuple(row) == keys for row in told["parameters"])
    fused = next(row for row in told["parameters"] if row["part"] == "attn.qkv")
    assert fused["slices"][0] == {"part": "attn.q", "dim": 0, "ranges": [[0, 24]]}


def test_anatomy_of_something_else_is_refused() -> None:
    with pytest.raises(InputError, match="takes a module or a transformers config, not str"):
        Anatomy.of("pico-qwen")


@pytest.mark.parametrize("family", ["bart", "t5", "marian"])
def test_encoder_and_decoder_are_one_language_tower(family: str) -> None:
    """Given as a module: the class that a causal language model lacks the encoder of."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

    config = CONFIG_MAPPING[family]()
    with torch.device("meta"):
        anatomy = Anatomy.of(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING[type(config)](config))
    assert anatomy.towers == ("language",)
    assert not [t.name for t in anatomy.parameters if t.part == "other"]
    first_of_decoder = next(t for t in anatomy.parameters if re.search(r"decoder\..*\.0\.", t.name))
    assert anatomy.depth("language") == 2 * (first_of_decoder.layer or 0) > 0
    crossing = [t for t in anatomy.parameters if re.search("encoder_attn|EncDec", t.name)]
    assert {t.part for t in crossing if "norm" not in t.part} == {
        "attn.q", "attn.k", "attn.v", "attn.o",
    }  # fmt: skip
