"""The bundled models are real, small, load with plain transformers, and know their world."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import narrowtune
from narrowtune.pico import HELD_OUT, draw

FOLDERS = Path(narrowtune.__file__).parent / "models" / "bundled"
sys.path.insert(0, str(Path(__file__).parents[2] / "pretraining"))
import towers  # noqa: E402
from score import Reader, score  # noqa: E402

CLASSES = {
    "pico-qwen": "Qwen2_5_VLForConditionalGeneration",
    "pico-llava": "LlavaOnevisionForConditionalGeneration",
}
MODELS = sorted(CLASSES)


@pytest.fixture(scope="module", params=MODELS)
def reader(request: pytest.FixtureRequest) -> Reader:
    return Reader(FOLDERS / request.param)


@pytest.mark.parametrize("name", MODELS)
def test_folder_is_small_and_complete(name: str) -> None:
    files = {path.name: path.stat().st_size for path in (FOLDERS / name).iterdir()}
    assert sum(files.values()) <= 10 * 1024**2
    assert {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json",
        "processor_config.json",
    } <= set(files)  # fmt: skip
    processor = json.loads((FOLDERS / name / "processor_config.json").read_text())
    assert processor["processor_class"].endswith("Processor")


def test_real_class_of_few_parameters(reader: Reader) -> None:
    name = "pico-qwen" if reader.qwen else "pico-llava"
    assert type(reader.model).__name__ == CLASSES[name]
    assert 1e6 < sum(p.numel() for p in reader.model.parameters()) < 6e6


def test_tokenizer_covers_all_bytes_and_splits_digits(reader: Reader) -> None:
    tokenizer = reader.tokenizer
    text = "Ünïcode ✓ 漢字\tand 1234567890 \x00\x7f"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    assert len(tokenizer.encode("1234", add_special_tokens=False)) == 4
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert len(tokenizer) <= 1500


def test_chat_template_takes_strings_and_blocks(reader: Reader) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
    ]
    text = reader.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    assert text.count(reader.tokenizer.image_token) == 1
    assert text.endswith("What?<|im_end|>\n<|im_start|>assistant\n")


def test_real_processor_makes_the_same_inputs(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its video half, which needs torchvision."""
    name = "pico-qwen" if reader.qwen else "pico-llava"
    kind = transformers.Qwen2_5_VLProcessor if reader.qwen else transformers.LlavaOnevisionProcessor
    monkeypatch.setattr(kind, "check_argument_for_proper_class", lambda *_, **__: None)
    saved = json.loads((FOLDERS / name / "processor_config.json").read_text())
    saved.pop("processor_class")
    template = reader.tokenizer.chat_template
    processor = kind(reader.processor, reader.tokenizer, None, chat_template=template, **saved)
    item = draw("choices", "test", 0)
    content = [{"type": "image"}, {"type": "text", "text": item.question}]
    message = {"role": "user", "content": content}
    text = processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    made = processor(text=[text], images=[item.image], return_tensors="pt")
    for key, value in reader.inputs([item]).items():
        assert torch.equal(made[key], value), key


def test_answer_does_not_depend_on_the_batch(reader: Reader) -> None:
    items = [draw(task, "test", 3) for task in ("captions", "choices", "existence")]
    assert reader.answer(items) == [reader.answer([item])[0] for item in items]


def test_pretraining_sees_what_the_model_sees(reader: Reader) -> None:
    items = [draw("scenes", "test", index) for index in range(3)]
    images = torch.stack([torch.from_numpy(np.array(item.image)) for item in items])
    assert towers.check(reader.model, images) < 1e-4


def test_knows_a_part_of_its_world(reader: Reader) -> None:
    for task in ("charts", "captions", "choices"):
        assert score(reader, task, 40, batch=40) >= 60, task


@pytest.mark.slow
def test_knows_its_world(reader: Reader) -> None:
    told = {task: score(reader, task, 200) for task in HELD_OUT}
    assert sum(told.values()) / len(told) >= 85, told
    assert min(told.values()) >= 70, told
