"""From what a user calls MODEL to its config and its class without weights.

torch and transformers take seconds to import, so only the functions that need them do.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowtune.errors import InputError, nearest

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

_BUNDLED_FOLDER = Path(__file__).parent / "bundled"
BUNDLED: dict[str, Path] = {name: _BUNDLED_FOLDER / name for name in ("pico-qwen", "pico-llava")}
"""The models inside the package: name to folder."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")
_CONFIG = "config.json"


def resolve(model: str) -> str:
    """The folder or hub id that a MODEL names: a bundled name becomes its folder.

    Raises:
        InputError: If it is a path, but of no model folder, or a bundled name misspelt.
    """
    if model in BUNDLED:
        _check_folder(BUNDLED[model], f"the bundled model {model!r}")
        return str(BUNDLED[model])
    path = Path(model).expanduser()
    if path.exists():
        _check_folder(path, f"{model!r}")
        return str(path)
    if _HUB_ID.fullmatch(model) is None:
        raise InputError(f"there is no folder {model!r}; {_what_models_are()}")
    if difflib.get_close_matches(model, BUNDLED, cutoff=0.8):
        raise InputError(f"no bundled model is called {model!r}; {nearest(model, BUNDLED)}")
    return model


def load_config(
    model: str, revision: str | None = None, trust_remote_code: bool = False
) -> PretrainedConfig:
    """The config of a MODEL: of a folder, with or without weights, or from the hub.

    Args:
        model: A bundled name, a local folder or a hub id.
        revision: Commit of a hub model.
        trust_remote_code: Whether Python code that comes with the model may run.

    Raises:
        InputError: If there is none, it cannot be read, or its family is unknown.
    """
    source = resolve(model)
    local = Path(source).is_dir()
    if local:
        _check_config_file(Path(source) / _CONFIG, trust_remote_code)
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            source, revision=revision, trust_remote_code=trust_remote_code
        )
    # A config is checked by many hands (transformers, the hub client, the config class), each
    # with errors of its own; whichever objects, it is the input that is wrong.
    except Exception as error:
        reason = _one_line(error)
        if local:
            raise InputError(f"{Path(source) / _CONFIG} is no valid config: {reason}") from error
        at = "" if revision is None else f" at revision {revision!r}"
        raise InputError(
            f"cannot get the config of {model!r}{at} from the hub: {reason}; check the id and the "
            f"network; {_what_models_are()}"
        ) from error


def model_class(config: PretrainedConfig) -> type[Any]:
    """The class a config's weights are loaded into: image-text-to-text, else causal LM.

    Raises:
        InputError: If transformers has neither for this family.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    for mapping in (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING):
        if type(config) in mapping:
            found: type[Any] = mapping[type(config)]
            return found
    if (custom := _custom_class(config)) is not None:
        return custom
    raise InputError(
        f"the family {config.model_type!r} has no class that writes text from text or images, and "
        "only causal language models and image-text-to-text models can be taught"
    )


def _custom_class(config: PretrainedConfig) -> type[Any] | None:
    """The class that comes with the model, for a config that comes with it too, hence trusted."""
    named = getattr(config, "auto_map", None) or {}
    for auto in ("AutoModelForImageTextToText", "AutoModelForCausalLM"):
        if auto in named:
            from transformers.dynamic_module_utils import get_class_from_dynamic_module

            found: type[Any] = get_class_from_dynamic_module(named[auto], config.name_or_path)
            return found
    return None


def build_skeleton(config: PretrainedConfig) -> nn.Module:
    """The real class on the meta device: every name, shape and tie, no memory.

    Raises:
        InputError: If the family is not supported or the class rejects the config.
    """
    import torch

    found = model_class(config)
    try:
        with torch.device("meta"):
            # A copy: building writes its choices (dtype, attention) into the config.
            module: nn.Module = found._from_config(copy.deepcopy(config))
    # Model classes check little: a bad value ends as whatever error the line it reaches raises.
    except Exception as error:
        reason = f"{type(error).__name__}: {_one_line(error)}"
        raise InputError(f"{found.__name__} cannot be built from this config: {reason}") from error
    return module


def _check_folder(folder: Path, called: str) -> None:
    """Refuses a path that exists and is no model folder, saying what is missing."""
    if not folder.exists():
        raise InputError(f"{called} is missing from this installation: {folder} does not exist")
    if not folder.is_dir():
        raise InputError(f"{called} is a file; a model is a folder that holds {_CONFIG}")
    if not (folder / _CONFIG).is_file():
        raise InputError(f"{called} is not a model folder: {_CONFIG} is missing in it")


def _check_config_file(path: Path, trusted: bool) -> None:
    """Refuses what transformers would refuse at length."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error
    family = values.get("model_type") if isinstance(values, dict) else None
    if not isinstance(family, str):
        raise InputError(f"{path} names no 'model_type', so its family is unknown")
    from transformers import CONFIG_MAPPING

    custom = "auto_map" in values
    if family not in CONFIG_MAPPING and not (custom and trusted):
        asked = " (it comes with code of its own, which only --trust-remote-code runs)"
        raise InputError(
            f"{path}: the installed transformers has no model_type "
            f"{family!r}{asked if custom else ''}; "
            f"{nearest(family, CONFIG_MAPPING.keys())}"
        )


def _one_line(error: Exception, limit: int = 300) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= limit else text[:limit] + "..."


def _what_models_are() -> str:
    return f"MODEL is a folder with {_CONFIG}, a hub id or a bundled name ({', '.join(BUNDLED)})"
