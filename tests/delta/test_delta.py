"""A delta is the whole of what training changed, fits its base alone, and says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import narrowtune as nt
from narrowtune.anatomy import Anatomy
from narrowtune.delta import apply_deltas, changed, fingerprint, model_digest, verify
from narrowtune.errors import InputError
from narrowtune.models.loading import load_model, save_model
from narrowtune.record import read_header

TERMS = ["gate-up", "vision.attn.q"]  # whole tensors, and slices of fused ones


def base_model(dtype: str = "float32") -> nn.Module:
    return load_model("pico-qwen", device="cpu", dtype=dtype)


def train(model: nn.Module, seed: int, terms: list[str] = TERMS) -> nt.Delta:
    """A made-up stage: every trained entry moves."""
    selection = Anatomy.of(model).select(terms)
    ledger = nt.Ledger(model, selection)
    trained = selection.apply(model)
    torch.manual_seed(seed)
    with torch.no_grad():
        for _, parameter in trained:
            parameter.add_(0.01 * torch.randn_like(parameter))
    delta = nt.Delta.of(ledger, BASE, arm="gate-up", stage=f"stage{seed}")
    nt.release(model)
    return delta


BASE = "pico-qwen"


@pytest.fixture(scope="module")
def taught() -> tuple[nn.Module, nt.Delta]:
    model = base_model()
    return model, train(model, 1)


@pytest.fixture
def file(taught: tuple[nn.Module, nt.Delta], tmp_path: Path) -> Path:
    path = tmp_path / "delta.safetensors"
    taught[1].save(path)
    return path


def same_bits(one: nn.Module, other: nn.Module) -> bool:
    return not changed(fingerprint(one), fingerprint(other))


def test_alpha_one_is_the_trained_model_and_zero_the_base(
    taught: tuple[nn.Module, nt.Delta], file: Path
) -> None:
    assert same_bits(nt.load(BASE, delta=file, device="cpu"), taught[0])
    assert same_bits(nt.load(BASE, delta=file, alpha=0.0, device="cpu"), base_model())
    assert not same_bits(taught[0], base_model())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("alpha", [0.25, 0.5, 1.5, -1.0])
def test_between_them_it_is_linear_in_fp32(dtype: str, alpha: float) -> None:
    tuned = base_model(dtype)
    delta, mixed = train(tuned, 2), base_model(dtype)
    nt.apply_delta(mixed, delta, alpha)
    ends = zip(base_model(dtype).state_dict().items(), tuned.state_dict().items(), strict=True)
    state = mixed.state_dict()
    for (name, start), (_, end) in ends:
        expected = (start.float() + alpha * (end.float() - start.float())).to(start.dtype)
        assert torch.equal(state[name], expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bits_survive_the_file_in_every_dtype(dtype: str, tmp_path: Path) -> None:
    tuned = base_model(dtype)
    train(tuned, 3).save(tmp_path / "d.safetensors")
    loaded = nt.load(BASE, delta=tmp_path / "d.safetensors", device="cpu")
    assert next(loaded.parameters()).dtype == getattr(torch, dtype)
    assert same_bits(loaded, tuned)


def test_the_file_is_as_small_as_what_changed(file: Path) -> None:
    header = read_header(file)
    numbers = 4 * header.numel
    assert header.numel == Anatomy.of(base_model()).select(TERMS).trained_numel
    assert numbers < file.stat().st_size <= 1.01 * numbers + 64 * 1024


def test_the_header_says_where_it_comes_from(file: Path) -> None:
    header = read_header(file)
    assert header.base.id == BASE and header.base.dtype == "float32"
    assert header.base.sha256 == header.parent_sha256 == model_digest(base_model())
    assert (header.arm, header.stage, header.terms) == ("gate-up", "stage1", tuple(TERMS))
    assert header.tool == f"narrowtune {nt.__version__}"
    fused = header.entries["model.visual.blocks.0.attn.qkv.weight"]
    assert fused.terms == ("vision.attn.q",) and fused.shape == (384, 128)
    assert header.regions == ((0, ((0, 128),)),)


def test_deltas_of_successive_stages_chain(tmp_path: Path) -> None:
    model = base_model()
    first = train(model, 1)
    middle = fingerprint(model)
    ledger = nt.Ledger(model, Anatomy.of(model).select(TERMS))
    later = train(model, 2)
    later = nt.Delta(
        later.header.model_copy(update={"base": first.header.base}), later.tensors
    )  # as a run writes it: the base is the run's
    assert later.header.parent_sha256 == ledger.before.digest == first.header.result_sha256
    paths = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    for delta, path in zip((first, later), paths, strict=True):
        delta.save(path)
    assert same_bits(nt.load(BASE, delta=paths, device="cpu"), model)
    # The later one holds all that changed since the base, so it needs no other.
    assert same_bits(nt.load(BASE, delta=paths[1], device="cpu"), model)
    # A share of the last stage starts from the one before.
    half_way = nt.load(BASE, delta=paths, alpha=0.0, device="cpu")
    assert not changed(middle, fingerprint(half_way))


def test_a_chain_in_the_wrong_order_is_refused(taught: tuple[nn.Module, nt.Delta]) -> None:
    model = base_model()
    first = train(model, 1)
    second = train(model, 2)  # its own header: it began where the first ended
    with pytest.raises(InputError, match=r"delta 1 of 2 \(gate-up stage2\): the model's weights"):
        apply_deltas(base_model(), [second, first])


@settings(max_examples=20, deadline=None)
@given(st.floats(-2, 2, width=16), st.floats(-2, 2, width=16))
def test_scaling_multiplies(one: float, other: float) -> None:
    delta = SMALL.scaled(one).scaled(other)
    assert delta.header.alpha == one * other
    model, direct = base_model(), base_model()
    nt.apply_delta(model, delta)
    nt.apply_delta(direct, SMALL, one * other)
    assert same_bits(model, direct)


SMALL = train(base_model(), 5, ["connector.norm"])


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), 1e39, "0.5"])
def test_alpha_must_be_a_number(alpha: Any, file: Path) -> None:
    with pytest.raises(InputError, match="alpha must be a finite number"):
        nt.load(BASE, delta=file, alpha=alpha)
    with pytest.raises(InputError, match="alpha must be a finite number"):
        SMALL.scaled(alpha)


def test_alpha_without_a_delta_is_refused() -> None:
    with pytest.raises(InputError, match=r"alpha 0.5 is a share of a delta, and no delta is given"):
        nt.load(BASE, alpha=0.5)


def test_a_delta_loads_in_another_dtype_as_a_plain_model_would(file: Path) -> None:
    """What stays in fp32 in a bf16 model, rotary frequencies, is not rounded."""
    tuned = nt.load(BASE, delta=file, dtype="bfloat16", device="cpu")
    plain, whole = base_model("bfloat16"), nt.load(BASE, delta=file, device="cpu")
    kinds = {name: t.dtype for name, t in (*plain.named_parameters(), *plain.named_buffers())}
    ours = dict((*tuned.named_parameters(), *tuned.named_buffers()))
    assert {name: t.dtype for name, t in ours.items()} == kinds
    assert all(torch.equal(ours[name], buffer) for name, buffer in plain.named_buffers())
    state = whole.state_dict()
    assert all(torch.equal(t, state[n].to(t.dtype)) for n, t in tuned.state_dict().items())
    with pytest.raises(InputError, match=r"no dtype 'bf16'; did you mean 'bfloat16'"):
        nt.load(BASE, delta=file, dtype="bf16")


def test_a_later_delta_that_is_not_the_whole_change_wants_the_one_before() -> None:
    model = base_model()
    first = train(model, 1, ["language.mlp.gate"])
    ledger = nt.Ledger(model, Anatomy.of(model).select(["language.mlp.up"]))
    with torch.no_grad():
        for _, parameter in ledger.selection.apply(model):
            parameter.mul_(1.1)
    second = nt.Delta.of(ledger, first.header.base)
    with pytest.raises(InputError, match="with the stages before it applied"):
        nt.apply_delta(base_model(), second)
    assert same_bits(nt.load(BASE, delta=[first, second], device="cpu"), model)
    with pytest.raises(InputError, match="already has this delta"):
        nt.apply_delta(model, second)


def test_another_base_is_refused(file: Path, taught: tuple[nn.Module, nt.Delta]) -> None:
    with pytest.raises(InputError, match=r"not those the delta belongs to: it was made from pico"):
        nt.load("pico-llava", delta=_with_names_of("pico-llava", taught[1], file), device="cpu")
    model = base_model()
    with torch.no_grad():
        model.lm_head.weight.view(-1)[0] += 1  # a bit the delta does not even touch
    with pytest.raises(InputError, match="not those the delta belongs to"):
        nt.apply_delta(model, taught[1])


def _with_names_of(other: str, delta: nt.Delta, file: Path) -> Path:
    """A sound delta of another model, whose names happen to be in this one too."""
    names = {n for n, p in load_model(other, device="cpu").named_parameters()}
    entries = {n: e for n, e in delta.header.entries.items() if n in names}
    assert entries
    path = file.with_name("other.safetensors")
    trained = [f"name:{name}" for name in entries]
    train(base_model(), 7, trained).save(path)
    return path


def test_a_model_without_the_parameters_is_refused(taught: tuple[nn.Module, nt.Delta]) -> None:
    with pytest.raises(InputError, match=r"the model has no parameter .*visual.* \(8 such\)"):
        nt.apply_delta(load_model("pico-llava", device="cpu"), taught[1])


def test_a_changed_shape_is_refused(taught: tuple[nn.Module, nt.Delta]) -> None:
    model = base_model()
    layer = model.model.language_model.layers[0].mlp
    layer.up_proj = nn.Linear(128, 8, bias=False)
    with pytest.raises(InputError, match=r"up_proj.weight is \[8, 128\] in the model and \["):
        nt.apply_delta(model, taught[1])


Break = Callable[[Path], None]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip_a_bit(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[-50] ^= 1
    path.write_bytes(bytes(whole))


def _reword(path: Path) -> None:
    _rewrite(path, lambda header: header.update(arm="another"))


def _from_the_future(path: Path) -> None:
    _rewrite(path, lambda header: header.update(format=99), sealed=True)


def _no_header(path: Path) -> None:
    save_file(load_file(path), path)


def _no_file(path: Path) -> None:
    path.unlink()


def _rewrite(path: Path, change: Callable[[dict[str, object]], None], sealed: bool = False) -> None:
    from narrowtune.record.delta_header import _seal

    with safe_open(path, framework="numpy") as opened:
        outer = json.loads(opened.metadata()["narrowtune"])
    change(outer["header"])
    if sealed:
        outer["sha256"] = _seal(outer["header"])
    save_file(load_file(path), path, {"narrowtune": json.dumps(outer)})


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (_truncate, "can't be read, it is truncated or damaged"),
        (_flip_a_bit, "has been altered: its tensors do not match"),
        (_reword, "has been altered: its header does not match its seal"),
        (_from_the_future, "format 99, and this version of narrowtune reads format 1"),
        (_no_header, "is no delta"),
        (_no_file, "can't be read"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_damaged_file_is_refused_with_the_reason(file: Path, harm: Break, told: str) -> None:
    harm(file)
    with pytest.raises(InputError, match=told) as caught:
        nt.load(BASE, delta=file)
    assert str(file) in str(caught.value)


def found(checks: tuple[object, ...]) -> list[bool]:
    return [check.passed for check in checks]  # type: ignore[attr-defined]


def test_verify_proves_all_or_names_what_fails(taught: tuple[nn.Module, nt.Delta]) -> None:
    tuned, delta = taught
    assert found(verify(base_model(), delta, tuned)) == [True] * 4
    assert found(verify(tuned, delta)) == [False]
    other = base_model()
    assert found(verify(base_model(), delta, other)) == [True, True, True, False]


def test_verify_finds_training_outside_the_delta() -> None:
    model = base_model()
    selection = Anatomy.of(model).select(["vision.attn.q"])
    ledger = nt.Ledger(model, selection)
    name, _ = selection.apply(model)[0]
    nt.release(model)
    with torch.no_grad():
        model.get_parameter(name)[200] += 1.0  # a row of k
    delta = nt.Delta.of(ledger, BASE)
    assert ledger.changed() == (name,)
    checks = verify(base_model(), delta)
    assert [(check.name, check.passed) for check in checks] == [
        ("base", True),
        ("nothing else changed", False),
        ("gives the trained weights", False),
    ]


def test_the_result_loads_with_plain_transformers(file: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    model = nt.load(BASE, delta=file, alpha=0.5, device="cpu")
    save_model(model, BASE, tmp_path / "out")
    plain = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert same_bits(plain, model)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) > 100
    assert (tmp_path / "out" / "preprocessor_config.json").exists()


def test_a_delta_goes_onto_a_model_that_is_being_trained(
    taught: tuple[nn.Module, nt.Delta],
) -> None:
    """Windows are released first, so that they can't write old entries back."""
    model = base_model()
    Anatomy.of(model).select(["vision.attn.q"]).apply(model)
    nt.apply_delta(model, taught[1])
    assert same_bits(model, taught[0])


def test_tensors_of_a_delta_are_its_own(taught: tuple[nn.Module, nt.Delta]) -> None:
    """Training on does not move what a delta already holds."""
    model = base_model()
    delta = train(model, 4)
    before: dict[str, Tensor] = {name: t.clone() for name, t in delta.tensors.items()}
    train(model, 6)
    assert all(torch.equal(delta.tensors[name], before[name]) for name in before)
