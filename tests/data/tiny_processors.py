"""Tiny model folders of real families, and a byte-level tokenizer trained here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaOnevisionConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
)

from narrowtune.models.processing import Processing

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<s>",
    "</s>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<image>",
    "<video>",
]
CORPUS = [
    "What is shown here? A red circle and 3 blue squares. How many? The answer is 42.",
    "You are a helpful assistant. system user assistant USER: ASSISTANT: Hello world, yes, no.",
]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Qwen2.5-VL's: a default system turn, blocks or strings, the image between vision marks.
QWEN_VL = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}<|im_end|>\n{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in c %}{{ c['text'] }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Llama 3's: headers between special tokens, contents stripped.
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# As llava-1.5's Vicuna: images first; no blank after the generation prompt.
VICUNA = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'image') %}<image>\n{% endfor %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] }}"
    "{% endfor %}{% if m['role'] == 'assistant' %}END{% else %} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
VICUNA_EOS = VICUNA.replace("END", "</s>")
VICUNA_BLANK = VICUNA.replace("END", " ")
# As llava-onevision-qwen2's: history has a blank after the role, the generation prompt has none.
ONEVISION = (
    "{% for m in messages %}<|im_start|>{{ m['role'] + ' ' }}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'image') %}<image>{% endfor %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + c['text'] }}"
    "{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Qwen3's: an empty thought before the last answer, which the generation prompt does not open.
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if loop.last and m['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(template: str | None, **special: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.train_from_iterator(
        CORPUS * 4,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", **special}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.chat_template = template
    return fast


TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 512,
}
CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "patch_size": 14,
    "image_size": 84,
    "projection_dim": 32,
}
SIGLIP = {**CLIP, "model_type": "siglip_vision_model", "vision_use_head": False}
PINPOINTS = [[84, 84], [84, 168], [168, 84], [168, 168]]
SQUARE = {"shortest_edge": 84}
CROP = {"height": 84, "width": 84}
CLIP_ARITHMETIC = {
    "patch_size": 14,
    "vision_feature_select_strategy": "default",
    "num_additional_image_tokens": 1,
}


def _qwen_text(tokenizer: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    return {**TEXT, "rope_parameters": rope, "pad_token_id": tokenizer.pad_token_id}


def _qwen_tokens(tokenizer: Any) -> dict[str, int]:
    ids = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {key: tokenizer.convert_tokens_to_ids(token) for key, token in ids.items()}


def qwen2_5_vl(tokenizer: Any) -> Any:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 32,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    return Qwen2_5_VLConfig(
        text_config=_qwen_text(tokenizer), vision_config=vision, **_qwen_tokens(tokenizer)
    )


def qwen2_vl(tokenizer: Any) -> Any:
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
    return Qwen2VLConfig(
        text_config=_qwen_text(tokenizer), vision_config=vision, **_qwen_tokens(tokenizer)
    )


def _llava(
    config_class: Any, tokenizer: Any, text: str, vision: dict[str, Any], **more: Any
) -> Any:
    return config_class(
        text_config={"model_type": text, **TEXT},
        vision_config=vision,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        **more,
    )


def llava(tokenizer: Any) -> Any:
    return _llava(LlavaConfig, tokenizer, "llama", CLIP, image_seq_length=36)


def llava_next(tokenizer: Any) -> Any:
    return _llava(LlavaNextConfig, tokenizer, "llama", CLIP, image_grid_pinpoints=PINPOINTS)


def llava_onevision(tokenizer: Any) -> Any:
    return _llava(
        LlavaOnevisionConfig,
        tokenizer,
        "qwen2",
        SIGLIP,
        image_grid_pinpoints=PINPOINTS,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        vision_aspect_ratio="anyres_max_9",
    )


QWEN_IMAGES = {
    "size": {"shortest_edge": 4 * 28 * 28, "longest_edge": 16 * 28 * 28},
    "image_processor_type": "Qwen2VLImageProcessor",
}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2_5_vl": {
        "config": qwen2_5_vl,
        "template": QWEN_VL,
        "images": QWEN_IMAGES,
        "processor": {"processor_class": "Qwen2_5_VLProcessor"},
    },
    "qwen2_vl": {
        "config": qwen2_vl,
        "template": QWEN_VL,
        "images": QWEN_IMAGES,
        "processor": {"processor_class": "Qwen2VLProcessor"},
    },
    "llava": {
        "config": llava,
        "template": VICUNA_BLANK,
        "tokens": {"bos_token": "<s>", "eos_token": "</s>"},
        "images": {
            "image_processor_type": "CLIPImageProcessor",
            "size": SQUARE,
            "crop_size": CROP,
        },
        "processor": {"processor_class": "LlavaProcessor", **CLIP_ARITHMETIC},
    },
    "llava_next": {
        "config": llava_next,
        "template": VICUNA_EOS,
        "tokens": {"bos_token": "<s>", "eos_token": "</s>"},
        "images": {
            "image_processor_type": "LlavaNextImageProcessor",
            "size": SQUARE,
            "crop_size": CROP,
            "image_grid_pinpoints": PINPOINTS,
        },
        "processor": {"processor_class": "LlavaNextProcessor", **CLIP_ARITHMETIC},
    },
    "llava_onevision": {
        "config": llava_onevision,
        "template": ONEVISION,
        "images": {
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "size": CROP,
            "image_grid_pinpoints": PINPOINTS,
        },
        "processor": {
            "processor_class": "LlavaOnevisionProcessor",
            "num_image_tokens": 36,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_9",
        },
    },
}


def write_family(folder: Path, name: str) -> Path:
    """A model folder without weights, with the files that the real ones have."""
    family = FAMILIES[name]
    tokenizer = make_tokenizer(family["template"], **family.get("tokens", {}))
    tokenizer.save_pretrained(folder)
    family["config"](tokenizer).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(family["images"]))
    (folder / "processor_config.json").write_text(json.dumps(family["processor"]))
    return folder


def text_model(template: str | None, **special: str) -> Processing:
    """A text model's processing with this chat template."""
    return Processing("tiny-text", make_tokenizer(template, **special), None, LlamaConfig(**TEXT))
