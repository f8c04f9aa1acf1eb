"""Some entries of a tensor: half-open ranges along one dimension."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Range = tuple[int, int]


@dataclass(frozen=True)
class Region:
    """The entries whose index along `dim` lies in one of `ranges`, which are in order and apart."""

    dim: int
    ranges: tuple[Range, ...]

    @classmethod
    def of(cls, dim: int, ranges: Iterable[Range]) -> Region:
        """The union of ranges in any order; those that touch become one."""
        return cls(dim, joined(sorted(ranges)))

    @cached_property
    def size(self) -> int:
        """How many indices along `dim` are inside."""
        return sum(hi - lo for lo, hi in self.ranges)

    def complement(self, length: int) -> Region:
        """All other entries of a tensor whose size along `dim` is `length`."""
        edges = [0, *(edge for cut in self.ranges for edge in cut), length]
        pairs = zip(edges[::2], edges[1::2], strict=True)
        return Region(self.dim, tuple((lo, hi) for lo, hi in pairs if lo < hi))

    def take(self, tensor: Tensor) -> Tensor:
        """The entries inside, in order along `dim`: a view where that is possible."""
        if len(self.ranges) == 1:
            ((lo, hi),) = self.ranges
            return tensor.narrow(self.dim, lo, hi - lo)
        return tensor.index_select(self.dim, _indices(self.ranges, tensor.device))

    def put(self, tensor: Tensor, entries: Tensor) -> None:
        """Overwrite the entries inside, and no others."""
        if len(self.ranges) == 1:
            self.take(tensor).copy_(entries)
        else:
            tensor.index_copy_(self.dim, _indices(self.ranges, tensor.device), entries.to(tensor))


@lru_cache(maxsize=256)
def _indices(ranges: tuple[Range, ...], device: Any) -> Tensor:
    """The indices in the ranges, kept: interleaved rows have thousands of ranges."""
    import torch  # the anatomy of a model is read without it

    return torch.cat([torch.arange(lo, hi) for lo, hi in ranges]).to(device)


def joined(ranges: Sequence[Range]) -> tuple[Range, ...]:
    """Ranges in order, those that touch made one."""
    if not ranges:
        return ()
    starts = [ranges[0][0], *(b[0] for a, b in pairwise(ranges) if a[1] != b[0])]
    ends = [*(a[1] for a, b in pairwise(ranges) if a[1] != b[0]), ranges[-1][1]]
    return tuple(zip(starts, ends, strict=True))
