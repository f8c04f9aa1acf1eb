"""What a forward shows of a model's branches and its final norm, on many families' layers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from narrowtune.models.gallery import exceptions
from narrowtune.probes.branches import Layout, Written, written
from narrowtune.probes.readout import FinalNorm, Readout

sys.path.append(str(Path(__file__).parents[1] / "anatomy"))
from tiny_families import cases, family_of, table, tiny_inputs, tiny_model

# --- families -----------------------------------------------------------------------------------

ADDS_UP = {
    "llama": "attention.0 mlp.0", "gemma2": "attention.0 mlp.0", "gemma3_text": "attention.0 mlp.0",
    "gpt2": "attention.0 mlp.0", "gpt_neox": "attention.0 mlp.0", "falcon": "attention.0 mlp.0",
    "mixtral": "attention.0 mlp.0", "qwen2_moe": "attention.0 mlp.0", "opt": "attention.0 mlp.0",
    "granite": "attention.0 mlp.0", "olmo2": "attention.0 mlp.0", "cohere": "attention.0 mlp.0",
    "qwen3_next": "mixer.0 mlp.0", "jamba": "mixer.0 mlp.0", "nemotron_h": "mixer.0 mlp.1",
    "gemma4_text/equal": "attention.0 mlp.0 other.0",
}  # fmt: skip
"""Families whose stream is the sum of what is seen, and some of what must be seen."""

UNREAD = {
    "minimax": "more than the sum",
    "modernbert-decoder": "no single norm",
    "bert": "no single norm",
}


UNREADABLE = {
    "more than the sum": (
        "beam doge hrm_text minimax muse_spark rwkv t5gemma2 zaya"  # each rescales its stream
    ),
    "no single norm": (
        # the norm comes after each branch, or before an encoder's states
        "bart bert-generation big_bird blenderbot-small florence2 git marian mvp openai-gpt plbart "
        "trocr udop xlm xlnet "
        # the head has layers of its own, or reads other vectors than the layers write
        "bert camembert data2vec-text electra ernie megatron-bert modernbert-decoder rembert "
        "roberta roberta-prelayernorm roc_bert roformer xlm-roberta xlm-roberta-xl xmod opt/narrow "
        # a scale behind the norm
        "inkling_text inkling2 inkling2_text minicpm3 "
        # several streams at once, or none that is a vector for each token
        "blt cpmant deepseek_v4 diffusion_gemma gemma3n_text glm5_next hy_v4 qwen4_exp "
        "qwen4_exp_text"
    ),
}
"""Families of which no branch passes a final norm by itself, by the reason given."""

NOT_RUN = {
    "prophetnet": "its head reads several streams at once, and no probe picks positions of it"
}


def seen_in(case: str) -> Written:
    """What the branches of a tiny model of the family write at some positions."""
    model, inputs = tiny_model(case), tiny_inputs(case)
    inputs.pop("use_cache", None)
    asked = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    asked[:, 4:9] = True
    with torch.no_grad():
        return written(model, Layout.of(model), inputs, asked)


@pytest.mark.parametrize("case", ADDS_UP)
def test_the_branches_add_up_to_the_stream(case: str) -> None:
    seen = seen_in(case)
    assert not seen.missing
    assert {*ADDS_UP[case].split()} <= {*seen.parts}
    assert not Readout.of(seen).reason
    assert seen.stream is not None
    total = torch.stack(list(seen.parts.values())).sum(dim=0)
    assert float((total - seen.stream).norm()) < 1e-5 * float(seen.stream.norm())
    assert all(float(values.norm()) > 0 for values in seen.parts.values())


@pytest.mark.parametrize(("case", "reason"), UNREAD.items())
def test_what_the_norm_does_not_read_as_a_sum_says_why(case: str, reason: str) -> None:
    seen = seen_in(case)
    assert {"attention.0", "mlp.0"} <= {*seen.parts}
    assert reason in Readout.of(seen).reason


def test_a_stream_of_several_vectors_is_missing_not_zero() -> None:
    seen = seen_in("deepseek_v4")
    assert not seen.parts
    assert "no single vector for each token" in seen.missing["layer.0"]


ADDED = {
    # the norm behind the branch; the branch times a number of the config
    "gemma2": lambda layer, out: (
        out(layer.post_attention_layernorm), out(layer.post_feedforward_layernorm)
    ),
    "granite": lambda layer, out: (
        out(layer.self_attn) * layer.residual_multiplier, out(layer.mlp) * layer.residual_multiplier
    ),
    "gpt_neox": lambda layer, out: (out(layer.attention), out(layer.mlp)),
}  # fmt: skip


@pytest.mark.parametrize("case", ADDED)
def test_a_branch_is_what_its_layer_adds(case: str) -> None:
    model, inputs = tiny_model(case), tiny_inputs(case)
    if hasattr(model.config, "residual_multiplier"):
        for module in model.modules():
            if hasattr(module, "residual_multiplier"):
                module.residual_multiplier = 0.3
    asked = torch.ones_like(inputs["input_ids"], dtype=torch.bool)
    layout = Layout.of(model)
    (path,) = [path for path, layer in layout.layers.items() if layer == 1]
    layer = model.get_submodule(path)
    outputs: dict[nn.Module, Tensor] = {}
    handles = [
        module.register_forward_hook(
            lambda module, _, out: outputs.update(
                {module: (out[0] if isinstance(out, tuple) else out).clone()}
            )
        )
        for module in layer.modules()
    ]
    with torch.no_grad():
        seen = written(model, layout, inputs, asked)
    for handle in handles:
        handle.remove()
    attention, mlp = ADDED[case](layer, outputs.__getitem__)
    assert torch.equal(seen.parts["attention.1"], attention.flatten(0, 1))
    assert torch.equal(seen.parts["mlp.1"], mlp.flatten(0, 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [c for c in cases() if family_of(c) not in {*exceptions(), *table()["excluded"], *NOT_RUN}],
)
def test_every_family_can_be_read_but_these(case: str) -> None:
    model = tiny_model(case)
    if not hasattr(model.get_output_embeddings(), "weight") or "input_ids" not in tiny_inputs(case):
        pytest.skip("it has no head of its own, or reads no tokens")
    seen = seen_in(case)
    expected = [
        why for why, named in UNREADABLE.items() if {case, family_of(case)} & {*named.split()}
    ]
    found = Readout.of(seen).reason
    assert [why for why in UNREADABLE if why in found] == expected
    if not expected:
        assert not seen.missing
        assert {part.partition(".")[0] for part in seen.parts} <= {
            "embed", "attention", "mlp", "mixer", "other",
        }  # fmt: skip


# --- the final norm -----------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["llama", "gemma2", "gpt2", "cohere", "qwen3_next"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_measured_norm_is_the_norm(case: str, dtype: torch.dtype) -> None:
    model, inputs = tiny_model(case), tiny_inputs(case)
    asked = torch.ones_like(inputs["input_ids"], dtype=torch.bool)
    with torch.no_grad():
        norm = written(model, Layout.of(model), inputs, asked).norm
        assert norm is not None
        norm = norm.to(dtype)
        x = 3 * torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0)) + 1
        y = norm(x.to(dtype)).double()
        found = FinalNorm.measured(norm, torch.empty(0, 32, dtype=dtype))
        x = x.to(dtype).double()
        spread = x - x.mean(dim=-1, keepdim=True) if found.centred else x
        lengths = spread.square().mean(dim=-1).sqrt()
    assert found.centred == (case in {"gpt2", "cohere"})
    near = 1e-4 if dtype is torch.float32 else 2e-2
    assert torch.allclose(found.unscaled(x) / lengths[..., None] + found.bias, y, near, near)
    assert torch.allclose(found.lengths(x, y), lengths, near)
    assert found.explains(x[0], y[0], near)


def test_another_norm_is_told_apart() -> None:
    x = torch.randn(7, 32, generator=torch.Generator().manual_seed(0))
    norm = nn.Tanh()
    found = FinalNorm.measured(norm, x)
    assert not found.explains(x.double(), norm(x).double(), 1e-2)
