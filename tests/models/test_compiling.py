"""Compiled decoder layers: the same losses and gradients but for rounding, gone afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_models import llama
from torch import Tensor, nn
from transformers import AttentionInterface

from narrowtune import pico
from narrowtune.anatomy import Anatomy
from narrowtune.data import read_examples
from narrowtune.data.batching import Batch, collate
from narrowtune.data.encoding import Encoded, encode
from narrowtune.delta import read_delta
from narrowtune.errors import InputError
from narrowtune.experiment import parse_experiment
from narrowtune.models.compiling import check_compiler
from narrowtune.models.loading import load_model
from narrowtune.models.packed import attending_by_segments
from narrowtune.models.processing import Processing, load_processing
from narrowtune.models.segments import SEGMENTS, attend
from narrowtune.runner import Options, Plan, plan, run
from narrowtune.runner.folder import delta_path
from narrowtune.runner.sparing import spared
from narrowtune.training.loop import answer_loss
from narrowtune.training.packing import Packing

ON = {"torch_compile": True}
QUIET = Options(device="cpu", save_models=False)


def has_compiler() -> bool:
    try:
        check_compiler("cpu")
    except InputError:
        return False
    return True


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compiling")
    pico.write(folder / "data", "counting", "train", 24)
    return folder


@pytest.fixture(scope="module")
def processing() -> Processing:
    return load_processing("pico-qwen")


@pytest.fixture(scope="module")
def rows(home: Path, processing: Processing) -> list[Encoded]:
    examples = read_examples(home / "data/counting/train.jsonl")
    return [encode(one, processing) for one in examples]


def gradients(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    loss = answer_loss(model, batch)
    torch.autograd.backward(loss)
    return loss.detach(), {
        name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None
    }


def close(one: tuple[Tensor, dict[str, Tensor]], other: tuple[Tensor, dict[str, Tensor]]) -> bool:
    torch.testing.assert_close(one[0], other[0], rtol=1e-5, atol=1e-6)
    assert one[1].keys() == other[1].keys()
    for name, grad in one[1].items():
        largest = float(grad.abs().max())
        torch.testing.assert_close(other[1][name], grad, rtol=0, atol=1e-5 * largest + 1e-9)
    return True


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("checkpointing", [False, True])
def test_losses_and_gradients_are_the_same(
    rows: list[Encoded], processing: Processing, checkpointing: bool
) -> None:
    """Padded and packed batches, batches of other lengths, and the last layer spared."""
    model = load_model("pico-qwen", device="cpu").train()
    anatomy = Anatomy.of(model)
    anatomy.select(["gate-up"]).apply(model)
    pad: Callable[[list[Encoded]], Batch] = lambda some: collate(  # noqa: E731
        some, processing, padding_side="right"
    )
    with attending_by_segments(model):
        pack = Packing(model, processing)
        batches = [pad(rows[:4]), pad(rows[4:7]), pack(rows[:4]), pack(rows[7:12])]
        plain = [gradients(model, batch) for batch in batches]
        with spared(model, anatomy, ["language"], checkpointing=checkpointing, compiling=True):
            assert compiled_layers(model) == anatomy.depth("language") - 1
            assert all(close(*pair) for pair in zip(plain, map_of(model, batches), strict=True))
        assert compiled_layers(model) == 0
        again = [gradients(model, batch) for batch in batches]
    assert all(
        torch.equal(one[name], other[name])
        for (_, one), (_, other) in zip(plain, again, strict=True)
        for name in one
    )


def map_of(model: nn.Module, batches: list[Batch]) -> list[tuple[Tensor, dict[str, Tensor]]]:
    return [gradients(model, batch) for batch in batches]


def planned(home: Path, **more: object) -> Plan:
    given = {
        "model": {"id": "pico-qwen"},
        "stages": [{"name": "counting", "train": "data/counting/train.jsonl"}],
        "arms": [{"name": "arm", "recipe": "gate-up"}],
        "training": {"batch_size": 6, "learning_rate": 1e-3} | more,
    }
    return plan(parse_experiment(given), home)


def tensors(folder: Path) -> dict[str, Tensor]:
    return dict(read_delta(delta_path(folder, "arm", "counting")).tensors)


@pytest.mark.slow
@needs_compiler
def test_a_run_gives_the_same_bits_again_and_plain_numbers_nearly(
    home: Path, tmp_path: Path
) -> None:
    once = run(planned(home, **ON), tmp_path / "once", options=QUIET)
    plain = run(planned(home, batch_size=5), tmp_path / "plain", options=QUIET)
    run(planned(home, batch_size=5, **ON), tmp_path / "other", options=QUIET)
    again = run(planned(home, **ON), tmp_path / "again", options=QUIET)
    assert once.losses == again.losses
    left, right = tensors(tmp_path / "once"), tensors(tmp_path / "again")
    assert all(torch.equal(left[name], right[name]) for name in left)
    left, right = tensors(tmp_path / "plain"), tensors(tmp_path / "other")
    assert not all(torch.equal(left[name], right[name]) for name in left)
    for name, change in left.items():
        allowed = 1e-2 * float(change.abs().max())
        torch.testing.assert_close(right[name], change, rtol=0, atol=allowed)
    assert "may differ from an uninterrupted one" in " ".join(once.plan["arms"][0]["notes"])
    assert not any("torch_compile" in note for note in plain.plan["arms"][0]["notes"])


def test_without_a_compiler_it_is_refused_before_anything_runs(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:
        raise RuntimeError("no compiler")

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", none)
    monkeypatch.setattr("narrowtune.runner.planning.default_device", lambda: "cpu")
    with pytest.raises(InputError, match=r"g\+\+ or clang\+\+"):
        planned(home, **ON)
    planned(home)


def compiled_layers(model: nn.Module) -> int:
    return sum(one._compiled_call_impl is not None for one in model.modules())


def registered() -> object:
    return AttentionInterface()[SEGMENTS]


def test_all_decoder_layers_but_the_last_are_compiled_for_a_while() -> None:
    """Nothing is compiled before a layer is called, so this takes no compiler."""
    for layers in (1, 3):
        model = llama(layers=layers)
        with spared(model, Anatomy.of(model), ["language"], compiling=True):
            assert compiled_layers(model) == layers - 1
            assert (registered() is attend) is (layers == 1)
        assert compiled_layers(model) == 0
        assert registered() is attend
