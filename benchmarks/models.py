"""The models that benchmarks measure: their products, not Python, take the time."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from narrowtune.models.processing import Processing, load_processing
from narrowtune.models.skeleton import BUNDLED, load_config, model_class

VOCABULARY = 151_936  # Qwen2's
WORDS = 860  # tokens below are words to the bundled tokenizers; placeholders and marks lie above


def qwen2(vocabulary: int, *, tied: bool) -> nn.Module:
    """A Qwen2 of 512 wide and 8 layers with drawn weights."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    return Qwen2ForCausalLM(config)


@dataclass(frozen=True)
class Shape:
    """A real class at a size that two cores can train.

    Attributes:
        name: The family.
        bundled: The bundled model whose tokenizer, processor and class it takes.
        changes: To JSON files of its folder, by file name; a dict changes single keys.
    """

    name: str
    bundled: str
    changes: Mapping[str, Mapping[str, Any]] = field(repr=False)

    def write(self, folder: Path) -> Path:
        """The model's folder without weights: config, tokenizer, processor."""
        source = BUNDLED[self.bundled]
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        for name, change in self.changes.items():
            changed = _changed(json.loads((source / name).read_text(encoding="utf-8")), change)
            (folder / name).write_text(json.dumps(changed, indent=2), encoding="utf-8")
        return folder


def _changed(old: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    new = dict(old)
    for key, value in change.items():
        inside = isinstance(value, dict) and isinstance(old.get(key), dict)
        new[key] = _changed(old[key], value) if inside else value
    return new


def drawn_model(folder: Path) -> nn.Module:
    """The class of the folder's config with drawn weights, the same at every call."""
    config = load_config(str(folder))
    torch.manual_seed(0)
    model: nn.Module = model_class(config)(config)
    return model.float().eval()


def processing_of(folder: Path) -> Processing:
    """The folder's tokenizer and image processor."""
    return load_processing(str(folder))


def copy_of(model: nn.Module, trained: set[str]) -> nn.Module:
    """A copy whose `trained` parameters are its own; the others are the model's.

    Several learners then fit into memory side by side.
    """
    frozen = [one for name, one in model.named_parameters() if name not in trained]
    return copy.deepcopy(model, {id(one): one for one in frozen})


_LANGUAGE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 512,
    "intermediate_size": 2752,
    "num_hidden_layers": 8,
    "layer_types": ["full_attention"] * 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.02,
}

# A quarter of Qwen2.5-VL-3B's widths, 8 layers for its 36 and 32; pictures at any size, as there.
QWEN = Shape(
    "Qwen2.5-VL",
    "pico-qwen",
    {
        "config.json": {
            "text_config": {
                **_LANGUAGE,
                "rope_parameters": {"mrope_section": [8, 12, 12], "rope_theta": 1e6},
            },
            "vision_config": {
                "depth": 8,
                "fullatt_block_indexes": [1, 3, 5, 7],
                "hidden_size": 320,
                "intermediate_size": 856,
                "out_hidden_size": 512,
            },
        },
        "preprocessor_config.json": {"size": {"shortest_edge": 3136, "longest_edge": 12845056}},
    },
)
# A seventh of LLaVA-OneVision-7B's language width, its vision somewhat wider; one tile a picture.
LLAVA = Shape(
    "LLaVA-OneVision",
    "pico-llava",
    {
        "config.json": {
            "text_config": _LANGUAGE,
            "vision_config": {
                "hidden_size": 256,
                "intermediate_size": 1024,
                "num_hidden_layers": 8,
                "image_size": 224,
                "patch_size": 14,
            },
            "image_grid_pinpoints": [[224, 224]],
        },
        "preprocessor_config.json": {
            "size": {"height": 224, "width": 224},
            "image_grid_pinpoints": [[224, 224]],
        },
        "processor_config.json": {"num_image_tokens": 256},
    },
)
