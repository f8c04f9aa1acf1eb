"""Configs of the families users start with, tiny and at real sizes: no hub is reached."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from narrowtune.anatomy import Anatomy

_TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
}
_MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
_QWEN_VL_TOKENS = {"image_token_id": 90, "video_token_id": 91, "vision_start_token_id": 92}
_CLIP = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_SIGLIP = {**_CLIP, "model_type": "siglip_vision_model", "vision_use_head": False}

TINY: dict[str, dict[str, Any]] = {
    "llama": {**_TEXT, "attention_bias": True},
    "qwen2": {**_TEXT, "tie_word_embeddings": True},
    "qwen3": {**_TEXT, "head_dim": 8},
    "mistral": _TEXT,
    "qwen2_vl": {
        "text_config": {**_TEXT, "rope_parameters": _MROPE},
        "vision_config": {"depth": 2, "embed_dim": 24, "hidden_size": 32, "num_heads": 2},
        "tie_word_embeddings": True,
        **_QWEN_VL_TOKENS,
    },
    "qwen2_5_vl": {
        "text_config": {**_TEXT, "rope_parameters": _MROPE},
        "vision_config": {
            "depth": 2,
            "hidden_size": 24,
            "intermediate_size": 40,
            "out_hidden_size": 32,
            "num_heads": 2,
        },
        "tie_word_embeddings": True,
        **_QWEN_VL_TOKENS,
    },
    "llava": {
        "text_config": {**_TEXT, "model_type": "llama"},
        "vision_config": {**_CLIP, "model_type": "clip_vision_model"},
        "tie_word_embeddings": False,
    },
    "llava_next": {
        "text_config": {**_TEXT, "model_type": "mistral"},
        "vision_config": {**_CLIP, "model_type": "clip_vision_model"},
        "tie_word_embeddings": False,
    },
    "llava_onevision": {
        "text_config": {**_TEXT, "model_type": "qwen2"},
        "vision_config": _SIGLIP,
        "tie_word_embeddings": False,
    },
}
"""Keyword arguments of a two-layer config per family."""

QWEN2_5_VL_7B: dict[str, Any] = {
    # Flat, as the file on the hub is: older transformers wrote no `text_config`.
    "model_type": "qwen2_5_vl",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
    },
}
LLAVA_ONEVISION_7B: dict[str, Any] = {
    "model_type": "llava_onevision",
    "torch_dtype": "float16",
    "tie_word_embeddings": False,
    "text_config": {
        "model_type": "qwen2",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152128,
        "tie_word_embeddings": False,
    },
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 26,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
        "vision_use_head": False,
    },
}
LLAMA_3_8B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}


def tiny_config(family: str, **changes: Any) -> PretrainedConfig:
    """The two-layer config of a family."""
    return AutoConfig.for_model(family, **{**TINY[family], **changes})


@lru_cache
def tiny(family: str) -> Anatomy:
    """The anatomy of the two-layer model of a family."""
    return Anatomy.of(tiny_config(family))


def model_folder(folder: Path, values: dict[str, Any]) -> str:
    """A folder that holds nothing but a config.json of these values."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return str(folder)
