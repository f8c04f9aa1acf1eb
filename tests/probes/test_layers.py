"""What layers write, against full logit vectors; and on models whose layers are built otherwise."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

import pytest
import torch
from torch import Tensor, nn

from narrowtune.data import read_examples
from narrowtune.data.batching import collate
from narrowtune.data.encoding import Encoded, encode_all
from narrowtune.errors import InputError, RunFailed
from narrowtune.models.loading import load_model
from narrowtune.models.processing import Processing, load_processing
from narrowtune.probes.classes import TokenClass, number_tokens
from narrowtune.probes.keeping import Kept
from narrowtune.probes.layers import Layers
from narrowtune.probes.readings import Reading
from narrowtune.probes.readout import Heads
from narrowtune.probes.reference import Reference


@pytest.fixture
def numbers(processing: Processing) -> TokenClass:
    return number_tokens(processing.tokenizer)


@pytest.fixture
def remembered(
    texts: list[Encoded], processing: Processing, base: nn.Module, numbers: TokenClass
) -> Layers:
    layers = Layers([Reference("texts", texts, processing, 5)], (numbers,))
    layers.remember(base)
    return layers


@pytest.fixture
def rewritten(pico_model: Callable[[], nn.Module]) -> nn.Module:
    """`pico-qwen` with noise on all of its language tower: head, embedding and norms too."""
    model, draw = pico_model(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "visual" not in name:
                weight += 0.02 * torch.randn(weight.shape, generator=draw)
    return model


def value(readings: Sequence[Reading], probe: str, part: str, at: str = "all") -> float:
    (found,) = [one for one in readings if (one.probe, one.part, one.at) == (probe, part, at)]
    assert found.value is not None
    return found.value


# --- the slow, obvious reference -----------------------------------------------------------------


@contextmanager
def outputs_of(modules: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """What each module returns, and under `stream` what the final norm reads."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: object) -> None:
            first = output[0] if isinstance(output, tuple) else output
            assert isinstance(first, Tensor)
            found[name] = (args[0] if name == "stream" else first)[0].double()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def slowly_written(
    model: nn.Module, rows: Sequence[Encoded], processing: Processing
) -> list[dict[str, Tensor]]:
    """Per text and branch, [answer tokens, hidden]: by the modules' names, one text at a time."""
    tower = model.model.language_model
    modules = {"embed": tower.embed_tokens, "stream": tower.norm}
    for index, layer in enumerate(tower.layers):
        modules |= {f"attention.{index}": layer.self_attn, f"mlp.{index}": layer.mlp}
    texts = []
    for row in rows:
        places = [at - 1 for at, taught in enumerate(row.supervised) if taught]
        with outputs_of(modules) as found, torch.no_grad():
            model(**collate([row], processing, padding_side="right").inputs)
        texts.append({name: values[places] for name, values in found.items()})
    return texts


def length(model: nn.Module, stream: Tensor) -> Tensor:
    eps = model.model.language_model.norm.variance_epsilon
    return (stream.square().mean(dim=-1, keepdim=True) + eps).sqrt()


@pytest.mark.parametrize("which", ["drifted", "rewritten"])
def test_it_agrees_with_full_logit_vectors(
    which: str, request, remembered: Layers, texts: list[Encoded], processing: Processing,
    base: nn.Module, numbers: TokenClass,
) -> None:  # fmt: skip
    tuned = request.getfixturevalue(which)
    found = remembered.read(tuned)
    before, after = (slowly_written(one, texts, processing) for one in (base, tuned))
    heads = [one.get_output_embeddings().weight.detach().double() for one in (base, tuned)]
    weights = [one.model.language_model.norm.weight.detach().double() for one in (base, tuned)]
    parts = [part for part in before[0] if part != "stream"]
    assert {one.part for one in found if one.probe == "branch_shift"} == {*parts}
    for part in parts:
        shift, normed, push, first = [], [], [], []
        for then, now in zip(before, after, strict=True):
            old, new = then[part] @ heads[0].T, now[part] @ heads[1].T  # [tokens, vocabulary]
            shift.append(float((new - old).norm(dim=-1).mean()))
            scale = length(base, then["stream"])
            old = (then[part] * weights[0] / scale) @ heads[0].T
            new = (now[part] * weights[1] / scale) @ heads[1].T
            normed.append(float((new - old).norm(dim=-1).mean()))
            moved = new - old
            towards = moved[:, list(numbers.ids)].mean(dim=-1) - moved.mean(dim=-1)
            push.append(float(towards.mean()))
            first.append(float(towards[0]))
        near = {"rel": 1e-5, "abs": 1e-5}  # batches are added up in another order, in float32
        assert value(found, "branch_shift", part) == pytest.approx(fmean(shift), **near)
        assert value(found, "branch_shift_normed", part) == pytest.approx(fmean(normed), **near)
        part += ":number"
        assert value(found, "class_push", part) == pytest.approx(fmean(push), **near)
        assert value(found, "class_push", part, "first") == pytest.approx(fmean(first), **near)
    stretch = [
        float((length(tuned, now["stream"]) / length(base, then["stream"])).mean())
        for then, now in zip(before, after, strict=True)
    ]
    assert value(found, "stream_length", "") == pytest.approx(fmean(stretch), rel=1e-5)


@pytest.mark.parametrize("same", [True, False])
def test_gram_matrices_give_the_length_of_logit_vectors(same: bool) -> None:
    draw = torch.Generator().manual_seed(3)
    base = torch.randn(20_000, 24, generator=draw)
    tuned = base if same else base + 0.1 * torch.randn(base.shape, generator=draw)
    g = torch.randn(9, 24, generator=draw, dtype=torch.float64)
    heads = Heads.of(tuned, None if same else base)
    for change in (1.0, 1e-6):  # also where little has moved, as a difference of large numbers
        h = g + change * torch.randn(g.shape, generator=draw, dtype=torch.float64)
        expected = (h @ tuned.double().T - g @ base.double().T).norm(dim=-1)
        assert torch.allclose(heads.apart(h, g), expected, rtol=1e-9)
    assert (float(heads.apart(g, g).sum()) == 0.0) == same


def test_all_pushes_together_are_what_the_logits_say(
    processing: Processing, texts: list[Encoded], base: nn.Module, rewritten: nn.Module,
    numbers: TokenClass,
) -> None:  # fmt: skip
    (text,) = texts[:1]
    layers = Layers([Reference("one", [text], processing)], (numbers,))
    layers.remember(base)
    found = layers.read(rewritten)
    pushes = [one.value or 0 for one in found if (one.probe, one.at) == ("class_push", "first")]

    def margin(model: nn.Module) -> tuple[float, float]:
        at = text.supervised.index(True) - 1
        with torch.no_grad():
            inputs = collate([text], processing, padding_side="right").inputs
            logits = model(**inputs).logits[0, at].double()
        stream = slowly_written(model, [text], processing)[0]["stream"][:1]
        above = logits[list(numbers.ids)].mean() - logits.mean()
        return float(above), float(length(model, stream))

    (before, short), (after, long) = margin(base), margin(rewritten)
    assert sum(pushes) == pytest.approx(after * long / short - before, abs=1e-4)
    assert abs(after - before) > 0.01


# --- what has not moved -----------------------------------------------------------------------


def test_the_base_reads_exactly_nothing(remembered: Layers, base: nn.Module) -> None:
    found = remembered.read(base)
    assert {one.value for one in found if one.probe != "stream_length"} == {0.0}
    assert value(found, "stream_length", "") == 1.0


def test_what_comes_before_the_first_change_reads_exactly_nothing(
    remembered: Layers, pico_model: Callable[[], nn.Module]
) -> None:
    model = pico_model()
    with torch.no_grad():
        model.model.language_model.layers[2].mlp.down_proj.weight.mul_(1.1)
    found = remembered.read(model)
    still = ["embed", *(f"{branch}.{layer}" for layer in (0, 1) for branch in ("attention", "mlp"))]
    for part in (*still, "attention.2"):
        assert value(found, "branch_shift", part) == 0.0
        assert value(found, "branch_shift_normed", part) == 0.0
        assert value(found, "class_push", f"{part}:number") == 0.0
    for part in ("mlp.2", "attention.3", "mlp.3"):
        assert value(found, "branch_shift", part) > 0.1
        assert value(found, "branch_shift_normed", part) > 0.01


def test_looking_leaves_the_model_as_it_was(remembered: Layers, drifted: nn.Module) -> None:
    drifted.train()
    before = {name: weight.clone() for name, weight in drifted.state_dict().items()}
    first, second = remembered.read(drifted), remembered.read(drifted)
    assert first == second
    assert drifted.training
    assert all(torch.equal(before[name], kept) for name, kept in drifted.state_dict().items())
    hooks = [m._forward_hooks or m._forward_pre_hooks for m in drifted.modules()]
    assert not any(hooks)
    drifted.eval()


def test_bfloat16_reads_nearly_the_same(
    remembered: Layers, texts: list[Encoded], processing: Processing, base: nn.Module,
    drifted: nn.Module, numbers: TokenClass,
) -> None:  # fmt: skip
    exact = remembered.read(drifted)
    half = Layers([Reference("texts", texts, processing, 5)], (numbers,))
    half.remember(copy.deepcopy(base).to(torch.bfloat16))
    found = half.read(copy.deepcopy(drifted).to(torch.bfloat16))
    for probe in ("branch_shift", "branch_shift_normed"):
        assert value(found, probe, "mlp.3") == pytest.approx(value(exact, probe, "mlp.3"), rel=0.1)


# --- what can't be read -------------------------------------------------------------------------


def test_without_a_base_there_is_no_zero(texts: list[Encoded], processing: Processing) -> None:
    layers = Layers([Reference("texts", texts, processing)], ())
    (only,) = layers.read(nn.Identity())
    assert only.value is None
    assert only.reason == "no base has been read yet"


def test_a_head_that_is_no_matrix_is_told(
    texts: list[Encoded], processing: Processing, pico_model: Callable[[], nn.Module]
) -> None:
    model = pico_model()
    model.set_output_embeddings(nn.Identity())
    layers = Layers([Reference("texts", texts, processing)], ())
    layers.remember(model)
    (only,) = layers.read(model)
    assert only.value is None
    assert only.reason == "the output head, Identity, is no matrix of floating-point numbers"


def test_another_vocabulary_is_an_error(
    remembered: Layers, pico_model: Callable[[], nn.Module]
) -> None:
    model = pico_model()
    model.resize_token_embeddings(900)
    with pytest.raises(InputError, match=r"has 867 tokens of 128 numbers, that of .* 900 of 128"):
        remembered.read(model)


def test_damaged_weights_are_told(remembered: Layers, pico_model: Callable[[], nn.Module]) -> None:
    model = pico_model()
    with torch.no_grad():
        model.model.language_model.layers[1].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(RunFailed, match="texts: a layer writes NaN"):
        remembered.read(model)


def test_an_empty_class_has_a_reason_and_no_value(
    texts: list[Encoded], processing: Processing, base: nn.Module, numbers: TokenClass
) -> None:
    empty = TokenClass("letter", (), "the tokenizer has no letter that is one token")
    layers = Layers([Reference("texts", texts[:2], processing)], (numbers, empty))
    layers.remember(base)
    found = layers.read(base)
    (row,) = [one for one in found if one.part == ":letter"]
    assert (row.probe, row.value, row.reason) == ("class_push", None, empty.reason)


def test_pico_llava_is_read_too(drawn: Path) -> None:
    processing = load_processing("pico-llava")
    rows = encode_all(read_examples(drawn / "existence" / "test.jsonl")[:3], processing)
    model = load_model("pico-llava", device="cpu", dtype="float32")
    layers = Layers([Reference("existence", rows, processing)], ())
    layers.remember(model)
    with torch.no_grad():
        model.model.language_model.layers[1].self_attn.o_proj.weight.mul_(1.1)
    found = layers.read(model)
    assert value(found, "branch_shift_normed", "mlp.0") == 0.0
    assert value(found, "branch_shift_normed", "attention.1") > 0
    assert not any(one.reason for one in found)


def test_what_is_kept_beyond_the_limit_lies_in_files(monkeypatch) -> None:
    monkeypatch.setattr("narrowtune.probes.keeping.KEPT_BYTES", 100)
    kept, values = Kept(), [torch.full((10,), float(number)) for number in range(4)]
    for one in values:
        kept.keep(one)
    assert [one is same for one, same in zip(kept, values, strict=True)] == [
        True,
        True,
        False,
        False,
    ]
    assert all(torch.equal(one, same) for one, same in zip(kept, values, strict=True))
