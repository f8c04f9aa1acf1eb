"""One config of every family of the installed transformers that can be taught.

For the table of families in the documentation and for tests; nothing that users run needs it.
"""

from __future__ import annotations

import tomllib
from functools import lru_cache
from importlib.resources import files
from typing import Any

from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    PretrainedConfig,
)


def families() -> tuple[str, ...]:
    """Every `model_type` with a class that writes text, from text or from images too."""
    mappings = (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING)
    known = ((name, CONFIG_MAPPING[name]) for name in CONFIG_MAPPING)
    return tuple(sorted(name for name, config in known if any(config in m for m in mappings)))


def exceptions() -> dict[str, str]:
    """Families that no config builds here, with the reason."""
    return dict(_gallery().get("exceptions", {}))


def sample_config(family: str) -> PretrainedConfig:
    """The family's default config, with the arguments it can't be built without."""
    config: PretrainedConfig = CONFIG_MAPPING[family](**_gallery().get(family, {}))
    return config


@lru_cache
def _gallery() -> dict[str, Any]:
    text = files("narrowtune.models").joinpath("gallery.toml").read_text("utf-8")
    return tomllib.loads(text)
