"""What was read from the base, kept for all later comparisons."""

from __future__ import annotations

import tempfile

import torch
from torch import Tensor

KEPT_BYTES = 512 * 2**20
"""What is kept beyond this lies in a file that is mapped into memory."""


class Kept(list[Tensor]):
    """Tensors on the CPU, those beyond `KEPT_BYTES` together in unnamed files."""

    def keep(self, values: Tensor) -> None:
        """Append a tensor."""
        held = sum(one.nbytes for one in self) + values.nbytes
        self.append(values if held <= KEPT_BYTES else _mapped(values))


def _mapped(values: Tensor) -> Tensor:
    """The values in an unnamed file that is mapped into memory."""
    with tempfile.NamedTemporaryFile(prefix="narrowtune-") as file:
        file.truncate(values.nbytes)
        # The mapping outlives the file's name; its space is freed with the tensor.
        kept = torch.from_file(file.name, shared=True, size=values.numel(), dtype=values.dtype)
    return kept.reshape(values.shape).copy_(values)
