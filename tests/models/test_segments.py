"""Attention by segments is attention under the mask, computed without what the mask hides."""

from __future__ import annotations

import gc
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

sys.path += [str(Path(__file__).parents[1] / room) for room in ("anatomy", "data", "evaluation")]
from tiny_families import tiny_model
from tiny_processors import TEXT
from wide_models import with_wide_weights

from narrowtune.models import segments
from narrowtune.models.packed import attending_by_segments, block_mask
from narrowtune.models.segments import SEGMENTS, attend, segment_table

START = list(range(6))
# A tree of three, the last two of which share more; texts, one of two tokens; padding behind.
PLACES = [
    [list(range(12)), START + list(range(12, 17)), [*START, 12, 13, *range(17, 22)]],
    [list(range(9)), list(range(9, 20)), [20, 21]],
]
WIDTH = 24
WINDOWS = {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": 5}


def decoder(name: str) -> Any:
    """A tiny decoder in double precision, of as many query heads as key heads or more."""
    made = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**TEXT)),
        "grouped": lambda: Qwen2ForCausalLM(Qwen2Config(**{**TEXT, "num_key_value_heads": 1})),
        "windows": lambda: Qwen2ForCausalLM(Qwen2Config(**TEXT, **WINDOWS)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=4)),
    }
    return with_wide_weights(made[name]()).double()


def taught(model: Any, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits of what is no padding, and the gradients of their squares."""
    draw = torch.Generator().manual_seed(5)
    ids = torch.randint(30, 60, (len(PLACES), WIDTH), generator=draw)
    positions, real = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for row, samples in enumerate(PLACES):
        for stand in samples:
            positions[row, stand] = torch.arange(len(stand))
            real[row, stand] = True
    model.zero_grad()
    said = model(ids, attention_mask=mask, position_ids=positions, use_cache=False).logits[real]
    said.square().mean().backward()
    named = model.named_parameters()
    return said.detach(), {name: p.grad.clone() for name, p in named if p.grad is not None}


@pytest.mark.parametrize("call", [0, 2**30], ids=["each alone", "padded together"])
@pytest.mark.parametrize("name", ["llama", "grouped", "windows", "gpt2"])
def test_it_is_attention_under_the_mask(
    name: str, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(segments._CALL, "cpu", call)
    model = decoder(name)
    logits, gradients = taught(model, block_mask(model, PLACES, WIDTH))
    with attending_by_segments(model):
        table = block_mask(model, PLACES, WIDTH)
        assert table.dtype == torch.int8
        found, theirs = taught(model, table)
    assert torch.allclose(found, logits, rtol=1e-12, atol=1e-12)
    largest = max(float(one.norm()) for one in gradients.values())
    for part, gradient in gradients.items():
        assert float((theirs[part] - gradient).norm()) < 1e-12 * largest, part


def test_a_table_says_what_is_seen_and_what_is_own() -> None:
    table = segment_table([[[0, 1, 2], [0, 3, 4]], [[0, 1]]], 5)
    assert table.tolist() == [[[[2, 2, 2, 0, 0], [1, 0, 0, 2, 2]]], [[[2, 2, 0, 0, 0], [0] * 5]]]


def groups(lengths: list[int], call: int) -> list[tuple[int, int]]:
    """Segments and tokens of the calls for samples of these lengths, one behind another."""
    ends = torch.tensor(lengths).cumsum(0).tolist()
    places = [list(range(end - n, end)) for n, end in zip(lengths, ends, strict=True)]
    plan = segments._planned(segment_table([places], ends[-1]), None, call)
    return [(group.segments, group.queries) for group in plan.groups]


def test_like_lengths_share_a_call_where_padding_costs_less() -> None:
    assert groups([30, 28, 30, 29], call=1000) == [(4, 30)]
    assert groups([30, 28, 30, 29], call=1) == [(2, 30), (1, 29), (1, 28)]
    assert groups([300, 30, 30], call=1000) == [(1, 300), (2, 30)]


def test_sequences_filled_long_ones_first_are_not_moved() -> None:
    places = [list(range(9)), list(range(9, 16)), list(range(16, 20))]
    plan = segments._planned(segment_table([places], 20), None, 1)
    assert plan.queries is plan.keys is plan.back is None


def test_padding_behind_the_last_token_is_cut_off() -> None:
    places = [list(range(9)), list(range(9, 16))]
    plan = segments._planned(segment_table([places], 16), None, 1000)
    assert plan.back is not None and plan.back.tolist() == list(range(16))


@pytest.mark.parametrize("name", ["llama", "windows"])
def test_without_a_table_nothing_changes(name: str) -> None:
    model = decoder(name)
    ids = torch.randint(30, 60, (3, 9), generator=torch.Generator().manual_seed(2))
    real = torch.ones_like(ids)
    real[1, 6:] = real[2, 3:] = 0
    said = []
    for context in (nullcontext(), attending_by_segments(model), nullcontext()):
        with context, torch.no_grad():
            said.append(model(ids, attention_mask=real).logits)
            left = {"attention_mask": real.flip(1), "do_sample": False, "pad_token_id": 1}
            said.append(model.generate(ids, max_new_tokens=4, **left))
    assert all(one.equal(said[n % 2]) for n, one in enumerate(said))


def attentions(model: Any) -> set[str]:
    """How the layers of a model attend."""
    named = ((type(one).__name__, getattr(one, "config", None)) for one in model.modules())
    return {f"{n}: {config._attn_implementation}" for n, config in named if config is not None}


def test_only_the_language_tower_attends_otherwise_and_not_for_good() -> None:
    model = tiny_model("qwen2_5_vl")
    model.set_attn_implementation("sdpa")
    before = attentions(model)
    with pytest.raises(RuntimeError, match="on the way"), attending_by_segments(model):
        changed = attentions(model) - before
        assert changed and all(SEGMENTS in one and "Vision" not in one for one in changed)
        assert f"Qwen2_5_VLAttention: {SEGMENTS}" in changed
        raise RuntimeError("on the way")
    assert attentions(model) == before


@pytest.mark.parametrize(
    ("family", "attention"), [("llama", "eager"), ("falcon", "sdpa"), ("qwen3_next", "sdpa")]
)
def test_models_that_it_would_not_help_stay_as_they_are(family: str, attention: str) -> None:
    """Another attention; a class that looks none up; layers that mix samples."""
    model: Any = tiny_model(family)
    model.config._attn_implementation = attention
    with attending_by_segments(model):
        assert model.config.get_text_config()._attn_implementation == attention


@pytest.mark.parametrize("strange", ["position_bias", "s_aux"])
def test_what_cannot_be_honoured_is_refused(strange: str) -> None:
    query = torch.randn(1, 2, 4, 8)
    table = segment_table([[[0, 1], [2, 3]]], 4)
    with pytest.raises(ValueError, match=f"attention by segments takes no {strange}"):
        attend(nn.Module(), query, query, query, table, **{strange: torch.zeros(2)})


def test_softcapping_is_refused() -> None:
    query, layer = torch.randn(1, 2, 4, 8), nn.Module()
    layer.config = LlamaConfig(**TEXT)
    table = segment_table([[[0, 1], [2, 3]]], 4)
    with pytest.raises(ValueError, match="softcap"):
        attend(layer, query, query, query, table, softcap=30.0)


def test_a_plan_goes_with_its_batch() -> None:
    model = decoder("llama")
    with attending_by_segments(model):
        table = block_mask(model, PLACES, WIDTH)
        taught(model, table)
        assert table in segments._plans
        held = len(segments._plans)
        del table
        gc.collect()
        assert len(segments._plans) == held - 1
