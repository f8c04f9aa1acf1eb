"""A real model of any family, with random weights and a few layers, on the CPU.

The family's default config is shrunk by the words it uses: `tiny_families.toml` says which word
becomes which number, and what a family needs besides. Lists with one entry per layer are cut so
that each kind of layer stays.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling

from narrowtune.models.gallery import families, sample_config
from narrowtune.models.skeleton import build_skeleton, model_class

_COUNTS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "decoder_layers",
    "num_decoder_layers",
)
_NOT_ARGUMENTS = {"transformers_version", "architectures", "id2label", "label2id", "_name_or_path"}
_FIRST_SPECIAL_TOKEN, _LAST_SPECIAL_TOKEN = 64, 127
BATCH, LENGTH = 2, 12
_MOST = 3 * 10**7


@lru_cache
def table() -> dict[str, Any]:
    """`tiny_families.toml`."""
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))


def needs(case: str) -> dict[str, Any]:
    """What the table says about a family, or about a variant of it such as `falcon/grouped`."""
    rows = [row for row in table()["family"] if {case, family_of(case)} & set(row["names"])]
    merged: dict[str, Any] = {}
    for row in rows:
        merged = _merged(merged, row)
    return merged


def family_of(case: str) -> str:
    """The family that a case is of."""
    return case.partition("/")[0]


def cases() -> tuple[str, ...]:
    """Every family, and the variants that the table adds."""
    named = (name for row in table()["family"] for name in row["names"])
    return (*families(), *(name for name in named if "/" in name))


def tiny_config(case: str) -> PretrainedConfig:
    """The family's default config, shrunk."""
    default = sample_config(family_of(case))
    values = _shrunk(default.to_dict(), table()["words"])
    values = _merged(values, needs(case).get("config", {}))
    _renumber_tokens(values)
    config: PretrainedConfig = type(default)(**_arguments(values))
    return config


def tiny_model(case: str) -> nn.Module:
    """The real class in float32, all weights drawn at random, none left at zero."""
    config = tiny_config(case)
    torch.manual_seed(0)
    numel = sum(parameter.numel() for parameter in build_skeleton(config).parameters())
    assert numel < _MOST, f"{case} is not tiny: {numel} numbers"
    model: nn.Module = model_class(config)._from_config(
        copy.deepcopy(config), attn_implementation="eager", dtype=torch.float32
    )
    for module in model.modules():
        if isinstance(getattr(module, "config", None), PretrainedConfig):
            module.config._experts_implementation = "eager"
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.requires_grad = True
            if parameter.is_floating_point():
                scale = 0.1 if parameter.dim() < 2 else 0.2
                parameter += scale * torch.randn_like(parameter)
    return model.eval()


def tiny_inputs(case: str) -> dict[str, Any]:
    """Text for the language tower, in the arguments the family takes."""
    generator = torch.Generator().manual_seed(1)
    inputs: dict[str, Any] = {"input_ids": _tokens(generator)}
    for name, kind in needs(case).get("inputs", {}).items():
        inputs[name] = _drawn(kind, generator)
    return {name: value for name, value in inputs.items() if value is not None}


def seeing_cases() -> tuple[str, ...]:
    """The families whose image tower the table knows how to ask alone."""
    return tuple(family for row in table()["images"] for family in row["names"])


def tiny_image(family: str) -> dict[str, Any]:
    """An image, in the arguments of the family's `get_image_features`."""
    generator = torch.Generator().manual_seed(1)
    row = next(row for row in table()["images"] if family in row["names"])
    return {name: _drawn(kind, generator) for name, kind in row["inputs"].items()}


def _tokens(generator: torch.Generator) -> torch.Tensor:
    return torch.randint(30, 60, (BATCH, LENGTH), generator=generator)


def _drawn(kind: Any, generator: torch.Generator) -> Any:
    """An input by how the table writes it.

    A value; `tokens`; `None`; sizes of noise; `{exactly = values}`; `{uniform = sizes}`;
    `{ones = sizes}`; `{encoded = sizes}`, what an encoder returns; `{count = n}`, a mask of the
    first; `{image = token, count = n}`, tokens of which the first are an image's.
    """
    if kind == "tokens":
        return _tokens(generator)
    if kind == "None":
        return None
    if isinstance(kind, list):
        return torch.randn(*kind, generator=generator)
    if not isinstance(kind, dict):
        return kind
    made = {name: _MAKERS[name](value, generator) for name, value in kind.items()}
    if "image" in made:
        return _tokens(generator).masked_fill(made["count"], made["image"])
    return next(iter(made.values()))


def _encoded(sizes: list[int], generator: torch.Generator) -> BaseModelOutputWithPooling:
    states = torch.randn(*sizes, generator=generator)
    return BaseModelOutputWithPooling(states, states)


_MAKERS: dict[str, Callable[[Any, torch.Generator], Any]] = {
    "exactly": lambda values, _: torch.tensor(values),
    "uniform": lambda sizes, generator: torch.rand(*sizes, generator=generator),
    "ones": lambda sizes, _: torch.ones(*sizes, dtype=torch.long),
    "encoded": _encoded,
    "count": lambda count, _: torch.arange(LENGTH).expand(BATCH, LENGTH) < count,
    "image": lambda token, _: token,
}


def _shrunk(values: Mapping[Any, Any], words: Mapping[str, Any]) -> dict[Any, Any]:
    """The config with its words' sizes and the layers kept."""
    kept = _kept_layers(values)
    out = {key: _shrunk_value(key, value, words, kept) for key, value in values.items()}
    if kept.layers:
        out |= {word: len(kept.layers) for word in _COUNTS if word in values}
    if type(values.get("kv_lora_rank")) is int and "num_key_value_heads" in values:
        # From a latent, as many keys are made as queries.
        out["num_key_value_heads"] = out["num_attention_heads"]
    for size in ("qk_rope_head_dim", "qk_head_dim"):
        if type(values.get("head_dim")) is int and values["head_dim"] == values.get(size):
            out["head_dim"] = out[size]
    if kept.layers and values.get("per_layer_config"):
        out["per_layer_config"] = _shrunk_exceptions(values, out, kept)
    return out


def _shrunk_exceptions(
    values: Mapping[Any, Any], out: Mapping[Any, Any], kept: _Kept
) -> dict[int, dict[str, Any]]:
    """What differs in a layer, in the same proportion to the shrunk size as to the full one."""
    full = {int(layer): different for layer, different in values["per_layer_config"].items()}
    chosen = {new: full.get(old) for new, old in enumerate(kept.layers)}
    return {
        layer: {
            key: value * out[key] // values[key] if type(values.get(key)) is int else value
            for key, value in different.items()
        }
        for layer, different in chosen.items()
        if different
    }


def _shrunk_value(key: Any, value: Any, words: Mapping[str, Any], kept: _Kept) -> Any:
    if isinstance(value, dict):
        return _shrunk(value, words)
    if kept.layers and _is_indices(key, value):
        return [new for new, old in enumerate(kept.layers) if old in value]
    if kept.layers and isinstance(value, list) and len(value) == kept.of:
        return [value[index] for index in kept.layers]
    if key in words and type(value) is type(words[key]) and value:
        return words[key]
    return value


@dataclass(frozen=True)
class _Kept:
    """How many layers there were, and which of them are kept; none if all are alike."""

    of: int = 0
    layers: tuple[int, ...] = ()


def _kept_layers(values: Mapping[Any, Any]) -> _Kept:
    """The first layer of each kind, and at least two."""
    count = next((values[word] for word in _COUNTS if type(values.get(word)) is int), 0)
    kinds = [
        [index in value for index in range(count)] if _is_indices(key, value) else value
        for key, value in values.items()
        if _is_indices(key, value) or (isinstance(value, list) and len(value) == count)
    ]
    if not kinds:
        return _Kept()
    firsts: dict[str, int] = {}
    for index, kind in enumerate(zip(*kinds, strict=True)):
        firsts.setdefault(repr(kind), index)
    kept = sorted(firsts.values())
    spare = [index for index in range(count) if index not in kept]
    return _Kept(count, tuple(sorted(kept + spare[: max(0, 2 - len(kept))])))


def _is_indices(key: Any, value: Any) -> bool:
    """Whether a value lists the layers that something is true of."""
    return key in table()["index_lists"] and isinstance(value, list)


def _merged(values: dict[Any, Any], changes: Mapping[str, Any]) -> dict[Any, Any]:
    out = dict(values)
    for key, change in changes.items():
        nested = isinstance(change, dict) and isinstance(out.get(key), dict)
        out[key] = _merged(out[key], change) if nested else change
    return out


def _renumber_tokens(values: dict[Any, Any], free: list[int] | None = None) -> None:
    """Special tokens beyond the vocabulary become numbers in it that the inputs do not use."""
    free = list(range(_FIRST_SPECIAL_TOKEN, _LAST_SPECIAL_TOKEN)) if free is None else free
    for key, value in values.items():
        if isinstance(value, dict):
            _renumber_tokens(value, free)
        elif "token" in str(key) and str(key).endswith(("_id", "_index", "_ids")):
            if type(value) is int and value > _LAST_SPECIAL_TOKEN:
                values[key] = free.pop()
            elif isinstance(value, list) and any(v > _LAST_SPECIAL_TOKEN for v in _integers(value)):
                values[key] = [free.pop() for _ in value]


def _integers(values: Iterable[Any]) -> list[int]:
    return [value for value in values if isinstance(value, int)]


def _arguments(values: Any) -> Any:
    if isinstance(values, dict):
        return {k: _arguments(v) for k, v in values.items() if k not in _NOT_ARGUMENTS}
    return None if values == "None" else values
