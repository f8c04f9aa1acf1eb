"""Exactly the layers that are meant are packed, and they compute with what they were rounded to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from tiny_phi3 import TOKENS, tiny_phi3
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.quantizers.quantizers_utils import should_convert_module

from narrowtune.anatomy import Anatomy
from narrowtune.data.batching import Batch, collate
from narrowtune.data.encoding import Encoded
from narrowtune.delta import Ledger, dtype_of, fingerprint, model_digest
from narrowtune.errors import InputError
from narrowtune.models import quantization as settings
from narrowtune.models.experts import add_experts
from narrowtune.models.loading import load_model, save_model
from narrowtune.models.lora import Adapters, Rank, adaptable
from narrowtune.models.processing import Processing
from narrowtune.models.quantization import loading_options, quantizable, quantization_for
from narrowtune.models.quantized_linear import (
    QuantizedLinear,
    bytes_of,
    compute_dtype,
    dequantize,
    quantization_of,
)
from narrowtune.models.skeleton import build_skeleton, load_config
from narrowtune.record import Experts, Quantization
from narrowtune.runner.sparing import spared
from narrowtune.training.loop import answer_loss

pytest.importorskip("bitsandbytes")

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}


def qwen2(layers: int = 12) -> nn.Module:
    torch.manual_seed(0)
    heads = {"num_key_value_heads": 2, "tie_word_embeddings": False}
    config = Qwen2Config(**SIZES, **TOKENS, **heads, num_hidden_layers=layers)
    return Qwen2ForCausalLM(config)


def mixtral() -> nn.Module:
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 2}
    return MixtralForCausalLM(MixtralConfig(**SIZES, **TOKENS, **experts, num_hidden_layers=2))


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=2, n_head=4, **TOKENS))


def chosen(model: str, *stays: str) -> Quantization:
    config = load_config(model)
    found = quantization_for(
        build_skeleton(config), Anatomy.of(config), "nf4", {"those": list(stays)}
    )
    assert found is not None
    return found


def saved(model: nn.Module, folder: Path) -> str:
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def packed_qwen() -> Callable[..., nn.Module]:
    """`pico-qwen`, quantised but for what some terms select."""

    def make(terms: Sequence[str] = ("gate-up",), dtype: str = "float32") -> nn.Module:
        stays = Anatomy.of(load_config("pico-qwen")).select(terms).trained
        packed = chosen("pico-qwen", *stays)
        return load_model("pico-qwen", device="cpu", dtype=dtype, quantization=packed)

    return make


def test_names_that_begin_or_end_alike_are_told_apart(tmp_path: Path) -> None:
    """Layer 1 stays, layers 10 and 11 do not; `transformers` matches starts and ends of names."""
    path = saved(qwen2(), tmp_path / "model")
    stays = [name for name, _ in qwen2().named_parameters() if ".layers.1." in name]
    packed = chosen(path, *stays)
    model = load_model(path, device="cpu", quantization=packed)
    layers = {name for name, one in model.named_modules() if isinstance(one, QuantizedLinear)}
    matrices = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    wanted = {
        name
        for name, one in qwen2().named_modules()
        if name.endswith(matrices) and ".layers.1." not in name and isinstance(one, nn.Linear)
    }
    assert layers == wanted == set(packed.modules)
    assert len(layers) == 7 * 11
    assert quantization_of(model) == packed


def test_a_name_is_no_pattern() -> None:
    """`transformers` takes what it is to skip as regular expressions, and as ends of names too."""
    plain = nn.ModuleDict({"a": nn.ModuleDict({"b": nn.Linear(2, 2)}), "proj": nn.Linear(2, 2)})
    plain["axb"], plain["block"] = nn.Linear(2, 2), nn.ModuleDict({"proj": nn.Linear(2, 2)})
    wanted = {"axb", "block.proj"}
    packed = Quantization(type="nf4", modules=tuple(wanted), numel=8, total_numel=16)
    skipped = loading_options(plain, packed, "cpu")["quantization_config"].llm_int8_skip_modules
    names = [name for name, one in plain.named_modules() if isinstance(one, nn.Linear)]
    assert {name for name in names if should_convert_module(name, skipped)} == wanted


@pytest.mark.parametrize("make", [qwen2, mixtral, tiny_phi3])
def test_only_matrices_inside_layers_are_packed(
    make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    """No embedding, head, norm, router or fused experts; all else of a plain copy is untouched."""
    path = saved(make(), tmp_path / "model")
    plain = load_model(path, device="cpu")
    model = load_model(path, device="cpu", quantization=chosen(path))
    parts = {one.name: one.part for one in Anatomy.of(load_config(path)).parameters}
    assert {parts[f"{path}.weight"].partition(".")[0] for path in chosen(path).modules} <= {
        "attn",
        "mlp",
    }
    before, after = fingerprint(plain), fingerprint(model)
    gone = {f"{path}.weight" for path in chosen(path).modules}
    assert before.keys() - after.keys() == gone
    assert all(after[name] == value for name, value in before.items() if name not in gone)


def test_a_model_without_plain_layers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no plain linear layers"):
        chosen(saved(gpt2(), tmp_path / "model"))


def test_odd_rows_stay_plain(tmp_path: Path) -> None:
    """Two numbers share a byte; odd rows take another way in bitsandbytes, which compiles first."""
    config = Qwen2Config(**SIZES | {"intermediate_size": 95}, **TOKENS, num_hidden_layers=1)
    packed = chosen(saved(Qwen2ForCausalLM(config), tmp_path / "model"))
    assert {path.rpartition(".")[2] for path in packed.modules} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
    }  # fmt: skip


def test_what_no_skip_list_can_say_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(qwen2(2), tmp_path / "model")
    packed = chosen(path)
    config = {"llm_int8_skip_modules": ["layers.1.mlp.up_proj"]}
    plain = settings.loading_options
    monkeypatch.setattr(
        "narrowtune.models.loading.loading_options",
        lambda *given: _with(plain(*given), config),
    )
    with pytest.raises(InputError, match=r"other layers than nf4 .*\(2, first lm_head\)"):
        load_model(path, device="cpu", quantization=packed)


def _with(options: dict, changes: dict) -> dict:
    for name, value in changes.items():
        setattr(options["quantization_config"], name, value)
    return options


def loss_of(model: nn.Module, batch: Batch, **how: bool) -> torch.Tensor:
    anatomy = Anatomy.of(load_config("pico-qwen"))
    with spared(model, anatomy, ["language"], **how):
        return answer_loss(model, batch)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("terms", [["gate-up"], ["attention"], ["vision.mlp", "language.norm"]])
def test_gradients_are_those_of_the_model_with_the_rounded_matrices(
    packed_qwen: Callable[..., nn.Module],
    counting: list[Encoded],
    processing: Processing,
    terms: list[str],
    checkpointing: bool,
) -> None:
    model, plain = packed_qwen(terms), packed_qwen(terms)
    dequantize(plain)
    assert quantization_of(plain) is None
    selection = Anatomy.of(load_config("pico-qwen")).select(terms)
    batch = collate(counting[:4], processing, padding_side="right")
    found = []
    for one in (model.train(), plain.train()):
        named = selection.apply(one)
        loss = loss_of(one, batch, checkpointing=checkpointing)
        torch.autograd.backward(loss)
        found.append((loss.detach(), [weight.grad for _, weight in named]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)
    untouched = load_model("pico-qwen", device="cpu").train()
    selection.apply(untouched)
    assert abs(float(loss_of(untouched, batch).detach()) - float(found[0][0])) > 1e-4


def test_reading_it_changes_neither_its_bits_nor_its_mode_of_computing(
    packed_qwen: Callable[..., nn.Module], counting: list[Encoded], processing: Processing
) -> None:
    """bitsandbytes' own layer repacks itself at its first answer on some CPUs, and rounds more."""
    model = packed_qwen()
    selection = Anatomy.of(load_config("pico-qwen")).select(["gate-up"])
    ledger = Ledger(model, selection)
    batch = collate(counting[:2], processing, padding_side="right")
    with torch.no_grad():
        before = model.eval()(**batch.inputs).logits
    selection.apply(model.train())
    after = model(**batch.inputs).logits
    torch.testing.assert_close(before, after.detach(), rtol=1e-5, atol=1e-5)
    assert after.requires_grad
    assert not ledger.changed()


def test_the_digest_tells_packed_numbers_and_their_scales(
    packed_qwen: Callable[..., nn.Module],
) -> None:
    model, again, plain = packed_qwen(), packed_qwen(), load_model("pico-qwen", device="cpu")
    assert model_digest(model) == model_digest(again) != model_digest(plain)
    ledger = Ledger(model, Anatomy.of(load_config("pico-qwen")).select(["gate-up"]))
    layer = next(one for one in model.modules() if isinstance(one, QuantizedLinear))
    with torch.no_grad():
        layer.absmax[0] *= 1.0001
    (scales,) = ledger.changed()
    assert scales.endswith(".absmax")
    with torch.no_grad():
        layer.packed[3] ^= 1
    assert len(ledger.changed()) == 2
    assert model_digest(model) != model_digest(again)


def test_it_takes_as_many_bytes_as_told(packed_qwen: Callable[..., nn.Module]) -> None:
    model = packed_qwen()
    layers = [one for one in model.modules() if isinstance(one, QuantizedLinear)]
    held = sum(one.packed.nbytes + one.absmax.nbytes for one in layers)
    sizes = [one.in_features * one.out_features for one in layers]
    assert held == sum(map(bytes_of, sizes)) == round(0.5625 * sum(sizes))
    assert dtype_of(model) == "float32"


def test_bfloat16_computes_in_bfloat16(packed_qwen: Callable[..., nn.Module]) -> None:
    model = packed_qwen(dtype="bfloat16")
    layer = next(one for one in model.modules() if isinstance(one, QuantizedLinear))
    assert layer.weight.dtype == torch.bfloat16
    assert layer.absmax.dtype == torch.float32
    assert dtype_of(model) == "bfloat16"
    assert compute_dtype(model) == torch.bfloat16
    assert compute_dtype(nn.Sequential(layer)) == torch.bfloat16


def test_an_anatomy_is_that_of_the_model_before_it_was_packed(
    packed_qwen: Callable[..., nn.Module],
) -> None:
    model = packed_qwen()
    assert Anatomy.of(model) == Anatomy.of(load_config("pico-qwen"))
    assert Anatomy.of(model).select(["gate-up"]).apply(model)


@pytest.mark.parametrize("rows", [(3, 6), (7, 64), (1, 130)])
def test_uneven_shapes_are_unpacked_as_bitsandbytes_does(rows: tuple[int, int]) -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    torch.manual_seed(0)
    matrix = torch.randn(rows)
    packed, state = quantize_4bit(matrix, blocksize=64, quant_type="nf4")
    layer = QuantizedLinear(packed, state.absmax, None, rows, torch.float32)
    torch.testing.assert_close(layer.weight, dequantize_4bit(packed, state))
    hidden = torch.randn(2, rows[1], requires_grad=True)
    layer(hidden).square().sum().backward()
    told = hidden.detach().clone().requires_grad_()
    (told @ layer.weight.T).square().sum().backward()
    torch.testing.assert_close(hidden.grad, told.grad)


def test_what_trains_a_packed_matrix_is_refused(packed_qwen: Callable[..., nn.Module]) -> None:
    with pytest.raises(InputError, match=r"quantised in this model.*down_proj"):
        Anatomy.of(load_config("pico-qwen")).select(["language.mlp"]).apply(packed_qwen())


def test_adapters_and_experts_stand_beside_plain_layers(
    packed_qwen: Callable[..., nn.Module],
) -> None:
    pytest.importorskip("peft")
    anatomy = Anatomy.of(load_config("pico-qwen"))
    model = packed_qwen()
    names = adaptable(build_skeleton(load_config("pico-qwen")), anatomy.select(["gate-up"]).trained)
    before = model_digest(model)
    Adapters(model, names, Rank(rank=2), 0).merge()
    assert model_digest(model) == before
    blocks = tuple(sorted({name.rpartition(".mlp.")[0] + ".mlp" for name in names}))
    packed = chosen("pico-qwen", *blocks)
    assert not any(path.startswith(f"{block}.") for path in packed.modules for block in blocks)
    model = load_model("pico-qwen", device="cpu", quantization=packed)
    add_experts(model, Experts(blocks=blocks), names)


def test_saving_is_refused_until_it_is_unpacked(
    packed_qwen: Callable[..., nn.Module], tmp_path: Path
) -> None:
    model = packed_qwen()
    ids = torch.arange(8).reshape(1, 8)
    with pytest.raises(InputError, match="narrowtune delta apply"):
        save_model(model, "pico-qwen", tmp_path / "out")
    assert not any(tmp_path.iterdir())
    with torch.no_grad():
        said = model(input_ids=ids).logits
        dequantize(model)
        save_model(model, "pico-qwen", tmp_path / "out")
        again = load_model(str(tmp_path / "out"), device="cpu")(input_ids=ids).logits
    torch.testing.assert_close(said, again, rtol=1e-5, atol=1e-5)


def test_every_arm_has_its_say() -> None:
    config = load_config("pico-qwen")
    anatomy, skeleton = Anatomy.of(config), build_skeleton(config)
    narrow, other = (anatomy.select([term]).trained for term in ("gate-up", "attention"))
    left = quantization_for(skeleton, anatomy, "nf4", {"a": narrow, "b": other})
    assert left is not None
    touched = {name.removesuffix(".weight") for name in (*narrow, *other)}
    assert set(left.modules) == quantizable(skeleton, anatomy).keys() - touched
    with pytest.raises(InputError, match="arm full trains every matrix"):
        trained = {"arm a": narrow, "arm full": anatomy.select(["full"]).trained}
        quantization_for(skeleton, anatomy, "nf4", trained)


def test_wrong_input_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("pico-qwen")
    anatomy, skeleton = Anatomy.of(config), build_skeleton(config)
    with pytest.raises(InputError, match="no quantization 'nf5'; did you mean 'nf4'"):
        quantization_for(skeleton, anatomy, "nf5", {})
    skeleton.config.quantization_config = {"quant_method": "gptq"}
    with pytest.raises(InputError, match=r"quantised already \(gptq\)"):
        quantization_for(skeleton, anatomy, "nf4", {})
    with pytest.raises(InputError, match="on cpu and cuda, not on mps"):
        settings.check_quantization("nf4", "mps")
    monkeypatch.setattr("narrowtune.models.quantization.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'narrowtune\[quantization\]'"):
        load_model("pico-qwen", device="cpu", quantization=chosen("pico-qwen"))
