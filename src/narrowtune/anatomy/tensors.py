"""One tensor of a model, as data: where it belongs, what it does, what it is shared with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

TOWERS = ("language", "vision", "audio", "connector", "other")
"""Every tower there is, in the order they are shown."""

FUSED = {
    "attn.qkv": ("attn.q", "attn.k", "attn.v"),
    "attn.q_k": ("attn.q", "attn.k"),
    "attn.k_v": ("attn.k", "attn.v"),
    "attn.q_gate": ("attn.q", "attn.gate"),
    "attn.kv_a": ("attn.kv", "attn.k"),
    "attn.kv_b": ("attn.k", "attn.v"),
    **{
        f"{block}.gate_up": (f"{block}.gate", f"{block}.up")
        for block in ("mlp", "shared", "experts")
    },
}
"""Parts that are several roles in one tensor, and which."""


@dataclass(frozen=True)
class Slice:
    """The share of a fused tensor that plays one role: half-open `ranges` along `dim`."""

    part: str
    dim: int
    ranges: tuple[tuple[int, int], ...]

    def numel(self, shape: tuple[int, ...]) -> int:
        """How many entries of a tensor of this shape it holds."""
        rows = sum(hi - lo for lo, hi in self.ranges)
        return math.prod(shape) // shape[self.dim] * rows

    def to_dict(self) -> dict[str, Any]:
        """The slice as `inspect --json` prints it."""
        return {"part": self.part, "dim": self.dim, "ranges": [list(r) for r in self.ranges]}


@dataclass(frozen=True)
class TensorInfo:
    """One parameter or buffer, by name.

    Attributes:
        name: The module path, as `named_parameters(remove_duplicate=False)` gives it.
        shape: Sizes; `numel` is their product, also for a tied tensor.
        dtype: Such as `float32`.
        tower: One of `TOWERS`.
        part: The role inside the tower, such as `mlp.gate`; `other` when unknown.
        layer: Index of the tower's layer, None outside the layer stack.
        tied_to: Name of the parameter whose memory this one shares, None for an owner.
        slices: The roles inside a fused tensor, None for a tensor with one role.
        buffer: True for what no optimiser can train.
        persistent: False for a buffer that no checkpoint holds.
    """

    name: str
    shape: tuple[int, ...]
    numel: int
    dtype: str
    tower: str
    part: str
    layer: int | None = None
    tied_to: str | None = None
    slices: tuple[Slice, ...] | None = None
    buffer: bool = False
    persistent: bool = True

    @property
    def term(self) -> str:
        """`TOWER.PART`, the term that selects this tensor and its like."""
        return f"{self.tower}.{self.part}"

    @property
    def owner(self) -> str:
        """Name of the parameter that holds the memory: itself, or what it is tied to."""
        return self.tied_to or self.name

    def to_dict(self) -> dict[str, Any]:
        """The tensor as `inspect --json` prints it."""
        values: dict[str, Any] = {
            "name": self.name,
            "shape": list(self.shape),
            "numel": self.numel,
            "dtype": self.dtype,
            "tower": self.tower,
            "part": self.part,
            "layer": self.layer,
            "tied_to": self.tied_to,
            "slices": None if self.slices is None else [s.to_dict() for s in self.slices],
        }
        return values | ({"persistent": self.persistent} if self.buffer else {})
