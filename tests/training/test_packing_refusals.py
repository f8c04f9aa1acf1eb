"""What cannot be packed is refused with words: by its config, or by a trial."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

sys.path += [str(Path(__file__).parents[1] / room) for room in ("anatomy", "data", "evaluation")]
from text_side import TextSide
from tiny_families import tiny_model
from tiny_processors import SIGLIP, TEXT
from wide_models import with_wide_weights

from narrowtune.data.encoding import Encoded
from narrowtune.data.example import Example, ImagePart, Message
from narrowtune.data.sharing import Limits
from narrowtune.errors import InputError
from narrowtune.models import packed as packed_models
from narrowtune.models.packed import longest_packed
from narrowtune.training import packing
from narrowtune.training.packing import Packing


def drawn(*lengths: int) -> list[Encoded]:
    """Samples with ten tokens in common and three that are taught."""
    draw = torch.Generator().manual_seed(3)
    start = torch.randint(30, 60, (10,), generator=draw).tolist()

    def sample(length: int) -> Encoded:
        own = torch.randint(30, 60, (length - 10,), generator=draw).tolist()
        taught = (False,) * (length - 3) + (True,) * 3
        example = Example("", (), "t.jsonl:7", ("",))
        return Encoded(example, (*start, *own), taught, length - 3)

    return [sample(length) for length in lengths]


class SeeingSide(TextSide):
    """With images of four tokens, each of one colour."""

    image_token_id, feed = 9, None

    def token_type_inputs(self, input_ids: Any) -> dict[str, Any]:
        return {"token_type_ids": (input_ids == 9).long()}

    def pixel_inputs(self, images: Any, per_example: Any) -> dict[str, Any]:
        shades = [image.getpixel((0, 0))[0] / 255 for image in images]
        made = [torch.full((3, 56, 56), shade) for shade in shades]
        return {"pixel_values": torch.stack(made)} if made else {}


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("mamba", "cannot be told positions"),
        ("bloom", "cannot be told positions"),
        ("mpt", "cannot be told positions"),
        ("qwen3_next", "layers of the type linear_attention"),
        ("llama4_text", "layers of the type chunked_attention"),
        ("lfm2_moe", "layers of the type conv"),
    ],
)
def test_refused_by_its_config(family: str, why: str) -> None:
    with pytest.raises(InputError, match=f"samples of tiny cannot be packed: .*{why}"):
        Packing(tiny_model(family), TextSide())


@pytest.mark.parametrize(
    "family", ["jamba", "recurrent_gemma", "zamba2", "nemotron_h", "rwkv", "roberta", "xlm"]
)
def test_what_is_no_plain_decoder_is_refused_one_way_or_another(family: str) -> None:
    with pytest.raises(InputError, match="samples of tiny cannot be packed"):
        Packing(tiny_model(family), TextSide())(drawn(20, 18, 16))


@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3", "gpt2", "opt", "mixtral"])
def test_families_that_pass_the_trial(family: str) -> None:
    batch = Packing(tiny_model(family), TextSide())(drawn(20, 18, 16))
    assert batch.inputs["input_ids"].shape[0] < 3


def test_an_attention_without_masks_is_refused() -> None:
    model = LlamaForCausalLM(LlamaConfig(**TEXT))
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(InputError, match=r"'flash_attention_2' takes no mask .*'sdpa'"):
        Packing(model, TextSide())


def test_samples_longer_than_some_layers_windows_are_refused() -> None:
    config = Gemma3TextConfig(**{**TEXT, "head_dim": 8}, sliding_window=19)
    config.layer_types = ["sliding_attention", "full_attention"]
    pack = Packing(with_wide_weights(Gemma3ForCausalLM(config)), TextSide())
    assert len(pack(drawn(19, 18)).inputs["input_ids"]) == 1
    with pytest.raises(InputError, match=r"t\.jsonl:7: 20 tokens are more than the 19"):
        pack(drawn(20, 18))


def test_the_smaller_limit_holds() -> None:
    windows = {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 12}
    model = Qwen2ForCausalLM(Qwen2Config(**TEXT, **windows))
    assert longest_packed(model) == 12
    for asked, kept in ((None, 12), (30, 12), (11, 11)):
        assert Packing(model, TextSide(), Limits(longest=asked)).limits.longest == kept


def leaky(model: Any, places: Any, width: int) -> torch.Tensor:
    """The mask of one long text: branches see each other."""
    return torch.ones(len(places), 1, width, width, dtype=torch.bool).tril()


def misplaced(model: Any, alone: Any, at: Any) -> torch.Tensor:
    """Positions that count places in the sequence."""
    return torch.arange(at[0].shape[1]).expand(at[0].shape)


@pytest.mark.parametrize(
    ("part", "broken"), [("block_mask", leaky), ("packed_positions", misplaced)]
)
def test_the_trial_finds_a_wrong_mask_and_wrong_positions(
    part: str, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = with_wide_weights(LlamaForCausalLM(LlamaConfig(**TEXT)))
    assert hasattr(packed_models, part)
    monkeypatch.setattr(packing, part, broken)
    with pytest.raises(InputError, match="on trial the loss of one of them was off by"):
        Packing(model, TextSide())(drawn(20, 18, 16))


def test_the_trial_is_made_once_and_where_there_is_something_to_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = with_wide_weights(LlamaForCausalLM(LlamaConfig(**TEXT))).train()
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    pack = Packing(model, TextSide())
    alone = pack(drawn(20))
    assert not calls and alone.inputs["attention_mask"].dim() == 2  # as `collate` has it
    pack(drawn(20, 18))
    pack(drawn(20, 18))
    assert len(calls) == 2 and model.training


def test_images_whose_tokens_see_each_other_both_ways_are_found_by_a_trial_of_their_own(
    tmp_path: Path,
) -> None:
    text = {**TEXT, "head_dim": 8, "sliding_window": 64}
    vision = {**SIGLIP, "image_size": 56}
    tokens = {"mm_tokens_per_image": 4, "image_token_index": 9}
    config = Gemma3Config(text_config=text, vision_config=vision, **tokens)
    pack = Packing(with_wide_weights(Gemma3ForConditionalGeneration(config)), SeeingSide())
    assert len(pack(drawn(20, 18)).inputs["input_ids"]) == 1
    Image.new("RGB", (8, 8), (200, 0, 0)).save(tmp_path / "red.png")
    shown = Message("user", (ImagePart(tmp_path / "red.png"),))
    images = [
        replace(
            one,
            input_ids=(*one.input_ids[:3], 9, 9, 9, 9, *one.input_ids[7:]),
            example=replace(one.example, messages=(shown,)),
        )
        for one in drawn(20, 18)
    ]
    with pytest.raises(InputError, match="Gemma3ForConditionalGeneration passes from sample"):
        pack(images)
