"""Processors loaded where torchvision is missing: the real class, on its image half."""

from __future__ import annotations

from typing import Any

from transformers import (
    PROCESSOR_MAPPING,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
    ProcessorMixin,
)
from transformers.utils import is_torchvision_available


def load_processor(
    folder: str, config: Any, revision: str | None = None, trust_remote_code: bool = False
) -> Any:
    """The model's processor, its image half where torchvision is missing; None for text models."""
    if type(config) not in PROCESSOR_MAPPING:
        if "AutoProcessor" not in (getattr(config, "auto_map", None) or {}):
            return None
        return AutoProcessor.from_pretrained(
            folder, revision=revision, trust_remote_code=trust_remote_code
        )
    processor_class = PROCESSOR_MAPPING[type(config)]
    if "video_processor" in processor_class.get_attributes() and not is_torchvision_available():
        return _image_half(processor_class, folder, revision)
    found = AutoProcessor.from_pretrained(folder, revision=revision)
    return found if isinstance(found, ProcessorMixin) else None


def _image_half(processor_class: Any, folder: str, revision: str | None) -> Any:
    """The real processor class with no video processor.

    Only its check of argument classes insists on one, so the subclass lets None through; image
    processing and the arithmetic of image tokens are the real class's own.
    """

    def check(self: Any, name: str, value: Any) -> Any:
        if value is None:
            return None
        return processor_class.check_argument_for_proper_class(self, name, value)

    half = type(processor_class.__name__, (processor_class,), {})
    half.check_argument_for_proper_class = check  # type: ignore[attr-defined]
    loaders = {
        "tokenizer": AutoTokenizer,
        "image_processor": AutoImageProcessor,
        "feature_extractor": AutoFeatureExtractor,
    }
    parts = [
        loaders[name].from_pretrained(folder, revision=revision) if name in loaders else None
        for name in processor_class.get_attributes()
    ]
    settings, _ = processor_class.get_processor_dict(folder, revision=revision)
    return half.from_args_and_dict(parts, settings)  # type: ignore[attr-defined]


def generation_ends(folder: str, revision: str | None) -> tuple[int, ...]:
    """The end tokens that the model's generation config lists."""
    try:
        ends = GenerationConfig.from_pretrained(folder, revision=revision).eos_token_id
    except OSError:  # the file is optional
        return ()
    if ends is None:
        return ()
    return tuple(ends) if isinstance(ends, (list, tuple)) else (ends,)
