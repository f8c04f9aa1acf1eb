"""The built-in recipes: named selections, accepted wherever a term is."""

from __future__ import annotations

from dataclasses import dataclass

from narrowtune.anatomy.tensors import TOWERS


@dataclass(frozen=True)
class Recipe:
    """The union of `terms` minus the union of `keep`, under one name.

    A term inside a recipe may select nothing (an ungated MLP has no gate); the recipe may not.
    """

    name: str
    terms: tuple[str, ...]
    summary: str
    keep: tuple[str, ...] = ()


def _language(*parts: str) -> tuple[str, ...]:
    return tuple(f"language.{part}" for part in parts)


_BLOCKS = ("mlp", "shared", "experts")
_GATE_UP = tuple(f"{block}.{half}" for block in _BLOCKS for half in ("gate", "up", "gate_up"))
_DOWN = tuple(f"{block}.down" for block in _BLOCKS)
# `attn.kv` is a latent that keys and values share. Fused tensors by name too, for those whose
# slices no table tells.
_QKV = ("attn.q", "attn.k", "attn.v", "attn.kv", "attn.qkv", "attn.q_k", "attn.k_v")

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "attention",
            _language(*_QKV, "attn.o"),
            "projections q, k, v, o of the language tower, biases included, norms not",
        ),
        Recipe("attention-qkv", _language(*_QKV), "the same without the output projection"),
        Recipe("gate-up", _language(*_GATE_UP), "MLP gate and up of the language tower"),
        Recipe("mlp", _language(*_GATE_UP, *_DOWN), "MLP gate, up and down of the language tower"),
        Recipe("down", _language(*_DOWN), "MLP down of the language tower"),
        Recipe("language", ("language",), "the whole language tower, embeddings and head too"),
        Recipe(
            "language-body",
            ("language",),
            "the language tower without embeddings and head",
            keep=_language("embed", "head"),
        ),
        Recipe("connector", ("connector",), "what carries vision into language"),
        Recipe("vision", ("vision",), "the whole vision tower"),
        Recipe("full", TOWERS, "every parameter"),
    )
}
"""Built-in recipes by name."""
