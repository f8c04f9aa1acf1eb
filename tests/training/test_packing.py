"""Packed batches teach what the separate samples teach: the same loss, the same gradients."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

sys.path += [str(Path(__file__).parents[1] / room) for room in ("data", "evaluation")]
from tiny_processors import CHATML, TEXT, make_tokenizer, write_family
from wide_models import with_wide_weights

from narrowtune import pico
from narrowtune.anatomy import Anatomy
from narrowtune.data.batching import collate
from narrowtune.data.encoding import Encoded, encode_all
from narrowtune.data.example import Example, ImagePart, Message, TextPart
from narrowtune.data.sharing import Limits, lay_out
from narrowtune.errors import InputError
from narrowtune.models.activation_checkpointing import checkpointable, checkpointed
from narrowtune.models.loading import load_model
from narrowtune.models.packed import attending_by_segments
from narrowtune.models.processing import Processing, load_processing
from narrowtune.models.skeleton import load_config, model_class
from narrowtune.training import packing
from narrowtune.training.loop import answer_loss
from narrowtune.training.packing import Packing

QUESTIONS = [
    "How many circles are there?",
    "How many red stars are there?",
    "Is there a circle in the picture?",
    "Describe the picture.",
    "What does the sign say?",
    "How many circles are there?",
]
ANSWERS = ["3", "none at all", "yes", "a red circle and a blue boat", "park", "4 of them"]
FAMILIES = ["qwen2_vl", "qwen2_5_vl", "llava", "llava_next", "llava_onevision"]


@dataclass
class Learner:
    model: Any
    processing: Processing


def text_learner(config: Any, kind: Any) -> Learner:
    processing = Processing("tiny", make_tokenizer(CHATML), None, config)
    return Learner(with_wide_weights(kind(config)), processing)


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Learner]:
    """A model and its processing, by name, each made once."""
    made: dict[str, Learner] = {}

    def build(name: str) -> Learner:
        if name.startswith("pico"):
            model = load_model(name, device="cpu", dtype="float32")
            return Learner(model, load_processing(name))
        if name == "llama":
            return text_learner(LlamaConfig(**TEXT), LlamaForCausalLM)
        if name == "gpt2":  # learned positions
            return text_learner(GPT2Config(n_layer=2, n_embd=32, n_head=4), GPT2LMHeadModel)
        if name.startswith("windows"):
            whole = {"windows": 0, "windows and whole": 1}[name]
            windows = {"use_sliding_window": True, "max_window_layers": whole, "sliding_window": 12}
            return text_learner(Qwen2Config(**TEXT, **windows), Qwen2ForCausalLM)
        folder = str(write_family(tmp_path_factory.mktemp(name), name))
        config = load_config(folder)
        return Learner(with_wide_weights(model_class(config)(config)), load_processing(folder))

    def get(name: str) -> Learner:
        if name not in made:
            made[name] = build(name)
        return made[name]

    return get


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    pico.write(folder, "counting", "train", 3)
    return sorted((folder / "counting").rglob("*.png"))


def asked(number: int, *images: Path, answer: str | None = None) -> Example:
    question = TextPart(QUESTIONS[number % 6])
    user = Message("user", (*(ImagePart(path) for path in images), question))
    said = ANSWERS[number % 6] if answer is None else answer
    turns = (user, Message("assistant", (TextPart(said),)))
    return Example("", turns, "t.jsonl:1", (said,))


def gradients(model: nn.Module, batch: Any) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = answer_loss(model, batch) / batch.supervised_tokens
    loss.backward()
    named = model.named_parameters()
    return loss.item(), {name: p.grad.clone() for name, p in named if p.grad is not None}


def assert_taught_alike(learner: Learner, samples: list[Encoded], packed: Any) -> None:
    """One batch for all against each sample in a batch of its own."""
    model = learner.model
    found, theirs = gradients(model, packed)
    model.zero_grad()
    total = 0.0
    for sample in samples:
        loss = answer_loss(model, collate([sample], learner.processing, padding_side="right"))
        (loss / packed.supervised_tokens).backward()
        total += loss.item() / packed.supervised_tokens
    assert found == pytest.approx(total, rel=1e-5)
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert theirs.keys() == expected.keys()
    largest = max(float(gradient.norm()) for gradient in expected.values())
    for name, gradient in expected.items():
        # A bias of keys has no gradient but rounding.
        most = 1e-5 * max(float(gradient.norm()), 1e-2 * largest)
        assert float((theirs[name] - gradient).norm()) <= most, name


def assert_packs(learner: Learner, examples: list[Example], limits: Limits | None = None) -> Any:
    """Under a mask, and by segments where the model takes them; the batch under a mask."""
    samples = encode_all(examples, learner.processing)
    pack = Packing(learner.model, learner.processing, limits)
    packed = pack(samples)
    assert_taught_alike(learner, samples, packed)
    with attending_by_segments(learner.model):
        if pack.limits.by_segments:
            assert_packs_by_segments(learner, samples, pack)
    return packed


def assert_packs_by_segments(learner: Learner, samples: list[Encoded], pack: Packing) -> None:
    packed = pack(samples)
    assert packed.inputs["attention_mask"].dtype == torch.int8
    if pack.limits.fill:
        assert packed.inputs["input_ids"].shape == (1, packed.tokens)
    assert_taught_alike(learner, samples, packed)


@pytest.mark.parametrize("questions", [1, 2, 6])
@pytest.mark.parametrize("name", ["pico-qwen", "pico-llava"])
def test_questions_on_an_image(
    name: str, questions: int, learner: Callable[[str], Learner], pictures: list[Path]
) -> None:
    made = learner(name)
    examples = [asked(n, path) for path in pictures[:2] for n in range(questions)]
    packed = assert_packs(made, [*examples, asked(3), asked(4)])
    # Each image once, and the last two questions, the same with another answer, among the six.
    token = made.processing.image_token_id
    alone = encode_all([asked(0, pictures[0])], made.processing)[0].input_ids.count(token)
    assert int((packed.inputs["input_ids"] == token).sum()) == 2 * alone


@pytest.mark.parametrize("limits", [Limits(), Limits(share=False), Limits(fill=False)])
@pytest.mark.parametrize("name", FAMILIES)
def test_mixed_batches_of_other_families(
    name: str, limits: Limits, learner: Callable[[str], Learner], pictures: list[Path]
) -> None:
    first, second, third = pictures
    examples = [asked(n, first) for n in range(3)] + [asked(4), asked(0, second), asked(5)]
    examples += [asked(n, second, third) for n in (1, 2)] + [asked(1, second, first)]
    packed = assert_packs(learner(name), examples, limits)
    token = learner(name).processing.image_token_id
    per_row = (packed.inputs["input_ids"] == token).any(dim=1)
    assert per_row.any()


@pytest.mark.parametrize("name", ["llama", "gpt2", "windows"])
def test_texts(name: str, learner: Callable[[str], Learner]) -> None:
    examples = [asked(n) for n in range(6)] + [asked(0, answer=word) for word in ("no", "3 3 3")]
    packed = assert_packs(learner(name), examples)
    shared = packed.tokens
    packed = assert_packs(learner(name), examples, Limits(share=False))
    assert shared < packed.tokens == sum(map(len, packed.rows))


@pytest.mark.parametrize("name", ["pico-qwen", "qwen2_5_vl", "llava", "llama", "gpt2", "windows"])
def test_layers_that_are_run_again_see_the_same_segments(
    name: str, learner: Callable[[str], Learner], pictures: list[Path]
) -> None:
    made = learner(name)
    shown = pictures if made.processing.image_token_id is not None else []
    examples = [asked(n, *shown[n % 2 : 1]) for n in range(6)]
    samples = encode_all(examples, made.processing)
    layers = checkpointable(made.model, Anatomy.of(made.model), ())
    with attending_by_segments(made.model):
        packed = Packing(made.model, made.processing)(samples)
        found, kept = gradients(made.model, packed)
        with checkpointed(layers):
            for layer in layers:
                layer.training = True  # itself alone: nothing is dropped
            again, computed = gradients(made.model, packed)
            made.model.eval()
    assert layers and again == found
    assert all(computed[name].equal(gradient) for name, gradient in kept.items())


def test_eager_attention(learner: Callable[[str], Learner], pictures: list[Path]) -> None:
    model = load_model("pico-qwen", device="cpu", dtype="float32")
    model.set_attn_implementation("eager")
    made = Learner(model, learner("pico-qwen").processing)
    packed = assert_packs(made, [asked(n, pictures[0]) for n in range(3)] + [asked(1)])
    assert packed.inputs["attention_mask"].dtype == torch.float32


@pytest.mark.parametrize("name", ["pico-qwen", "qwen2_vl", "llava_next", "gpt2"])
def test_positions_are_those_of_each_sample_alone(
    name: str, learner: Callable[[str], Learner], pictures: list[Path]
) -> None:
    made = learner(name)
    images = [] if name == "gpt2" else pictures
    examples = [asked(n, *images[n % 2 : 2]) for n in range(6)]
    packed = Packing(made.model, made.processing)(encode_all(examples, made.processing))
    positions, rows = packed.inputs["position_ids"], iter(packed.rows)
    for number, row in enumerate(lay_out(packed.rows, made.processing.image_token_id)):
        for places in row.places:
            alone = collate([next(rows)], made.processing, padding_side="right").inputs
            own = made.model._prepare_position_ids_for_generation(alone["input_ids"], alone)
            assert torch.equal(positions[..., number, list(places)], own[..., 0, :])


def test_a_batch_moves_and_knows_its_samples(
    learner: Callable[[str], Learner], pictures: list[Path]
) -> None:
    made = learner("pico-qwen")
    samples = encode_all([asked(n, pictures[n % 2]) for n in range(4)], made.processing)
    packed = Packing(made.model, made.processing)(samples)
    assert {tensor.device.type for tensor in packed.to("meta").inputs.values()} == {"meta"}
    said = packed.inputs["input_ids"][packed.supervised].tolist()
    assert said == [
        token
        for row in packed.rows
        for token, taught in zip(row.input_ids, row.supervised, strict=True)
        if taught
    ]


def test_samples_with_images_are_tried_for_themselves(
    learner: Callable[[str], Learner], pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some classes mask images in a way of their own, which no text would show."""
    made = learner("pico-qwen")
    texts = encode_all([asked(0), asked(1)], made.processing)
    images = encode_all([asked(0, pictures[0]), asked(1, pictures[0])], made.processing)
    pack = Packing(made.model, made.processing)
    assert len(pack(texts).inputs["input_ids"]) == 1

    def leaky(model: Any, places: Any, width: int) -> torch.Tensor:
        return torch.ones(len(places), 1, width, width, dtype=torch.bool).tril()

    monkeypatch.setattr(packing, "block_mask", leaky)
    assert len(pack(texts).inputs["input_ids"]) == 1  # not tried again
    with pytest.raises(InputError, match="pico-qwen cannot be packed: on trial the loss of one"):
        pack(images)


def test_a_mask_across_samples_would_be_seen_in_loss_and_gradients(
    learner: Callable[[str], Learner], pictures: list[Path]
) -> None:
    made = learner("pico-qwen")
    samples = encode_all([asked(n, pictures[0]) for n in range(3)], made.processing)
    packed = Packing(made.model, made.processing)(samples)
    mask = packed.inputs["attention_mask"]
    places = lay_out(samples, made.processing.image_token_id)[0].places
    assert mask[0, 0, places[2][-1], places[1][-1]] == False  # noqa: E712  (a tensor)
    # The first token of the last branch, alone, sees one token of another.
    own = sorted(set(places[2]) - set(places[1]) - set(places[0]))[0]
    mask[0, 0, own, own - 1] = True
    with pytest.raises(AssertionError):
        assert_taught_alike(made, samples, packed)
