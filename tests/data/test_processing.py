"""Processings of real families without torchvision do what the real processors do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_processors as tiny
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    GenerationConfig,
    LlamaConfig,
    Qwen2Config,
)

from narrowtune.errors import InputError
from narrowtune.models.processing import Processing, load_processing

Family = Callable[[str], Processing]
SIZES = [(84, 84), (40, 30), (100, 60), (60, 150), (300, 80), (57, 211)]
everyone = pytest.mark.parametrize("name", list(tiny.FAMILIES))


def blanks(*sizes: tuple[int, int]) -> list[Image.Image]:
    return [Image.new("RGB", size, (200, 30, 90)) for size in sizes]


def counted(processing: Processing, *sizes: tuple[int, int]) -> int:
    """Image tokens that the real processor writes for one example with these images."""
    processor = processing.processor
    text = " ".join([processor.image_token] * len(sizes))
    ids = processor(images=[blanks(*sizes)], text=[text])["input_ids"][0]
    return list(ids).count(processor.image_token_id)


@everyone
def test_the_real_classes_are_loaded(name: str, family: Family) -> None:
    processing = family(name)
    wanted = tiny.FAMILIES[name]["processor"]["processor_class"]
    assert type(processing.processor).__name__ == wanted
    ancestors = [c.__module__ for c in type(processing.processor).__mro__]
    assert any(module.startswith("transformers.models.") for module in ancestors)
    assert processing.max_length == 512
    assert processing.image_token_id == processing.processor.image_token_id


@everyone
def test_image_tokens_are_the_real_processors(name: str, family: Family) -> None:
    processing = family(name)
    assert processing._formula_holds, "the quick way must be the one that is tested here"
    for size in SIZES:
        assert processing.image_tokens(size) == counted(processing, size)
        assert processing._measure((size,)) == (processing.image_tokens(size),)
    several = processing.image_token_counts(SIZES[:3])
    assert sum(several) == counted(processing, *SIZES[:3])


@everyone
def test_image_tokens_without_the_formula(name: str, family: Family) -> None:
    """Processors that keep no formula are asked by doing."""
    known = family(name)
    processing = Processing(name, known.tokenizer, known.processor)
    processing.__dict__["_formula_holds"] = False
    assert [processing.image_tokens(s) for s in SIZES] == [known.image_tokens(s) for s in SIZES]


@everyone
def test_pixels_are_the_real_processors(name: str, family: Family) -> None:
    processing = family(name)
    processor = processing.processor
    nested = [blanks((84, 84)), blanks((100, 60), (60, 150))]
    text = [processor.image_token, processor.image_token * 2]
    real = processor(images=nested, text=text, padding=True, return_tensors="pt")
    ours = processing.pixel_inputs([i for group in nested for i in group], [1, 0, 2])
    types = processing.token_type_inputs(real["input_ids"])
    for key, tensor in (ours | types).items():
        assert torch.equal(tensor, real[key]), key
    assert set(ours) | set(types) | {"input_ids", "attention_mask"} == set(real)
    assert processing.pixel_inputs([], [0, 0]) == {}


@everyone
def test_the_model_takes_as_many_tokens(name: str, family: Family) -> None:
    """The model itself counts its features against the placeholders."""
    processing = family(name)
    config = tiny.FAMILIES[name]["config"](processing.tokenizer)
    model = AutoModelForImageTextToText.from_config(config).eval()
    for sizes in ([(100, 60)], [(300, 80)], [(84, 84), (60, 150)]):
        runs = [[processing.image_token_id] * n for n in processing.image_token_counts(sizes)]
        ids = torch.tensor([[5, *(token for run in runs for token in (*run, 6))]])
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            **processing.pixel_inputs(blanks(*sizes), [len(sizes)]),
            **processing.token_type_inputs(ids),
        }
        with torch.no_grad():
            assert model(**inputs).logits.shape[1] == ids.shape[1]


def test_several_images_are_written_differently_in_onevision(family: Family) -> None:
    processing = family("llava_onevision")
    assert processing.image_token_counts([(84, 84), (84, 84)]) == (37, 37)
    assert processing.image_tokens((84, 84)) != 37


def test_text_folders(tmp_path: Path) -> None:
    tiny.make_tokenizer(tiny.CHATML, eos_token="<|endoftext|>").save_pretrained(tmp_path)
    LlamaConfig(**tiny.TEXT).save_pretrained(tmp_path)
    GenerationConfig(eos_token_id=[4, 2]).save_pretrained(tmp_path)
    processing = load_processing(str(tmp_path))
    assert processing.image_token_id is None and processing.max_length == 512
    # The template's own end first, then the tokenizer's, then generation_config's.
    assert processing.end_token_ids == (2, 0, 4)
    ids = torch.tensor([[1, 2]])
    assert processing.token_type_inputs(ids) == {} == processing.pixel_inputs([], [0])
    text = processing.tokenizer("Hello world")["input_ids"]
    assert processing.decode([1, *text, 2]) == "Hello world"


@pytest.mark.parametrize("config", [LlamaConfig, Qwen2Config])
def test_a_folder_without_a_tokenizer(config: type, tmp_path: Path) -> None:
    """Qwen2's class answers with an empty tokenizer there, Llama's with an error."""
    config(**tiny.TEXT).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="tokenizer"):
        load_processing(str(tmp_path))


def test_a_pad_token_is_borrowed() -> None:
    tokenizer = tiny.make_tokenizer(None, pad_token=None)
    assert Processing("m", tokenizer).pad_token_id == tokenizer.eos_token_id


def test_special_tokens_are_added_as_transformers_does() -> None:
    """A chat template is complete for a tokenizer; a base model's text wants its first token."""
    tokenizer = tiny.make_tokenizer(None, bos_token="<s>", eos_token="</s>")
    tokenizer._tokenizer.post_processor = tiny.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    base = Processing("base", tokenizer)
    assert base.tokenize("Hello")[0][0] == tokenizer.bos_token_id
    assert base.tokenize("<s>Hello")[0].count(tokenizer.bos_token_id) == 1
    tokenizer.chat_template = tiny.CHATML
    assert tokenizer.bos_token_id not in Processing("chat", tokenizer).tokenize("Hello")[0]
