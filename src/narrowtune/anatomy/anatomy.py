"""A model's tensors, each with its tower, part and layer: the value everything else asks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from narrowtune.anatomy.recipes import RECIPES
from narrowtune.anatomy.selection import Selection, select
from narrowtune.anatomy.tensors import TOWERS, TensorInfo
from narrowtune.errors import InputError


@dataclass(frozen=True)
class Anatomy:
    """What a model is made of.

    Attributes:
        family: The `model_type` of transformers, or the class name of a module without config.
        class_name: The class whose parameters these are.
        parameters: Every parameter, tied ones included, in the model's order.
        buffers: Every buffer, in the model's order.
    """

    family: str
    class_name: str
    parameters: tuple[TensorInfo, ...] = field(repr=False)
    buffers: tuple[TensorInfo, ...] = field(repr=False)

    @classmethod
    def of(cls, model_or_config: Any) -> Anatomy:
        """The anatomy of a module (on any device, meta included) or of a transformers config.

        Raises:
            InputError: If it is neither, or a config no supported class can be built from.
        """
        # Only here are torch and, for a config, transformers imported.
        if hasattr(model_or_config, "named_parameters"):
            from narrowtune.anatomy.packed import packed_parameters
            from narrowtune.anatomy.reading import read_module

            if not packed_parameters(model_or_config):
                return read_module(model_or_config)
            model_or_config = model_or_config.config  # as it was before some of it was packed
        if not hasattr(model_or_config, "model_type"):
            raise InputError(
                "Anatomy.of takes a module or a transformers config, not "
                f"{type(model_or_config).__name__}"
            )
        from narrowtune.models.skeleton import build_skeleton

        return cls.of(build_skeleton(model_or_config))

    @cached_property
    def total_numel(self) -> int:
        """How many numbers the parameters hold, tied ones counted once."""
        return sum(t.numel for t in self.parameters if t.tied_to is None)

    @cached_property
    def towers(self) -> tuple[str, ...]:
        """The towers this model has parameters in."""
        present = {tensor.tower for tensor in self.parameters}
        return tuple(tower for tower in TOWERS if tower in present)

    def depth(self, tower: str) -> int:
        """How many layers a tower has, 0 for none."""
        return self._depths.get(tower, 0)

    def last_layer(self, tower: str) -> tuple[TensorInfo, ...]:
        """The parameters of a tower's last layer."""
        last = self.depth(tower) - 1
        return tuple(t for t in self.parameters if t.tower == tower and t.layer == last)

    @cached_property
    def _depths(self) -> dict[str, int]:
        depths: dict[str, int] = {}
        for t in self.parameters:
            if t.layer is not None:
                depths[t.tower] = max(depths.get(t.tower, 0), t.layer + 1)
        return depths

    def select(self, terms: Sequence[str], keep: Sequence[str] = ()) -> Selection:
        """What training `terms` but not `keep` would train: terms, or names of recipes.

        Raises:
            InputError: With all terms that are wrong or select nothing, each with the nearest
                that exist; or if nothing is left.
        """
        return select(self, terms, keep)

    def recipe_sizes(self) -> dict[str, int | None]:
        """What each built-in recipe would train here; None where the model lacks it."""
        sizes: dict[str, int | None] = {}
        for name in RECIPES:
            try:
                sizes[name] = self.select([name]).trained_numel
            except InputError:
                sizes[name] = None
        return sizes

    def tower_prefixes(self, *towers: str) -> tuple[str, ...]:
        """The largest module paths all of whose parameters belong to these towers.

        With several towers, modules that mix them count too: `visual` of Qwen2.5-VL is vision
        and connector. The whole model is the empty path. A parameter that hangs directly on a
        mixed module (LLaVA's `image_newline`) is in no such path.
        """
        owners: dict[str, set[str]] = {}
        for tensor in self.parameters:
            for path in _ancestors(tensor.name):
                owners.setdefault(path, set()).add(tensor.tower)
        pure = {path for path, found in owners.items() if found <= set(towers)}
        return tuple(
            path for path in owners if path in pure and not pure.intersection(_ancestors(path))
        )

    def to_dict(self) -> dict[str, Any]:
        """The anatomy as `inspect --json` prints it.

        In `towers`, a tied tensor is counted where its owner is, so the sums add up to
        `total_numel`. A part of fused tensors tells the numbers of its slices.
        """
        return {
            "family": self.family,
            "class": self.class_name,
            "parameters": [tensor.to_dict() for tensor in self.parameters],
            "buffers": [tensor.to_dict() for tensor in self.buffers],
            "total_numel": self.total_numel,
            "towers": {tower: self._tower_dict(tower) for tower in self.towers},
            "recipes": self.recipe_sizes(),
        }

    def _tower_dict(self, tower: str) -> dict[str, Any]:
        parts: dict[str, dict[str, Any]] = {}
        for tensor in self.parameters:
            if tensor.tower == tower:
                row = parts.setdefault(tensor.part, {"tensors": 0, "numel": 0})
                row["tensors"] += 1
                row["numel"] += tensor.numel if tensor.tied_to is None else 0
                for piece in tensor.slices or ():
                    slices = row.setdefault("slices", {})
                    slices[piece.part] = slices.get(piece.part, 0) + piece.numel(tensor.shape)
        return {
            "layers": self.depth(tower),
            "tensors": sum(row["tensors"] for row in parts.values()),
            "numel": sum(row["numel"] for row in parts.values()),
            "parts": dict(sorted(parts.items())),
        }


def _ancestors(path: str) -> Iterable[str]:
    """The module paths above a dotted path, nearest last, the root being the empty path."""
    pieces = path.split(".") if path else []
    return [".".join(pieces[:depth]) for depth in range(len(pieces))]
