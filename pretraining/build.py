"""The two models, untrained, as folders that plain `from_pretrained` loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from lessons import texts
from transformers import (
    GenerationConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)
from vocabulary import save, train

SIDE = 84
WIDTH = 128
MEAN, STD = [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]
TEXT: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.09,  # about 1 / sqrt(width): smaller starts match words slowly
}


def qwen(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A Qwen2.5-VL of about two million parameters; an image becomes 3 x 3 tokens."""
    ids = tokenizer.convert_tokens_to_ids
    text = TEXT | {
        "vocab_size": len(tokenizer),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [4, 6, 6],
        },
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "depth": 4,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_heads": 4,
        "out_hidden_size": WIDTH,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [1, 3],
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def llava(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A LLaVA-OneVision of about two million parameters (SigLIP, Qwen2), head untied."""
    text = Qwen2Config(
        **TEXT,
        vocab_size=len(tokenizer),
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    vision = SiglipVisionConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=28,
        vision_use_head=False,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[SIDE, SIDE]],
        vision_aspect_ratio="anyres_max_9",
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    )
    return LlavaOnevisionForConditionalGeneration(config)


MODELS = {"pico-qwen": qwen, "pico-llava": llava}
COMMON = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": MEAN,
    "image_std": STD,
    "resample": 3,
    "rescale_factor": 1 / 255,
}
QWEN_GRID = {
    "patch_size": 14,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "size": {"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE},
}
PROCESSING: dict[str, dict[str, dict[str, Any]]] = {
    "pico-qwen": {
        "preprocessor_config.json": COMMON
        | QWEN_GRID
        | {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
        },
        "video_preprocessor_config.json": COMMON
        | QWEN_GRID
        | {
            "video_processor_type": "Qwen2VLVideoProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
        },
        "processor_config.json": {"processor_class": "Qwen2_5_VLProcessor"},
    },
    "pico-llava": {
        "preprocessor_config.json": COMMON
        | {
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "processor_class": "LlavaOnevisionProcessor",
            "size": {"height": SIDE, "width": SIDE},
            "image_grid_pinpoints": [[SIDE, SIDE]],
            "do_pad": True,
        },
        "video_preprocessor_config.json": COMMON
        | {
            "video_processor_type": "LlavaOnevisionVideoProcessor",
            "processor_class": "LlavaOnevisionProcessor",
            "size": {"height": SIDE, "width": SIDE},
        },
        "processor_config.json": {
            "processor_class": "LlavaOnevisionProcessor",
            "num_image_tokens": 9,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_9",
            "image_token": "<image>",
            "video_token": "<video>",
        },
    },
}


def build(name: str, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The untrained model and its tokenizer, the same for the same seed."""
    tokenizer = train(name, texts(seed))
    torch.manual_seed(seed)
    model = MODELS[name](tokenizer).float()
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=32,
    )
    return model, tokenizer


def write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, name: str, out: Path) -> None:
    """Writes everything a folder needs; each file appears whole, the weights last."""
    draft = out.with_name(f".{out.name}.draft")
    draft.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(draft))
    save(tokenizer, draft)
    for file, content in PROCESSING[name].items():
        (draft / file).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(draft.iterdir(), key=lambda p: p.suffix == ".safetensors"):
        path.replace(out / path.name)
    draft.rmdir()
    (out / "model.safetensors").chmod(0o644)
