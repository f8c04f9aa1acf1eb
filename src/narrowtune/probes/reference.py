"""Fixed-reference probes: every model reads the same answers, and what it expected is compared.

The texts are a task's prompts with their right answers (teacher-forced), so that two models are
held against each other at the same positions; a probe on texts that each model writes itself
(`number_bias`) compares them at different ones.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from narrowtune.data.batches import Batches
from narrowtune.data.encoding import Encoded
from narrowtune.data.model_side import ModelSide
from narrowtune.errors import InputError, RunFailed
from narrowtune.models.generation import evaluating
from narrowtune.models.supervised import predicting, supervised_logits
from narrowtune.probes.classes import TokenClass
from narrowtune.probes.distances import Distances, distances, joined

KEPT_BYTES = 512 * 2**20
"""Log-probabilities of the base beyond this lie in a file that is mapped into memory."""


@dataclass(frozen=True)
class Positions:
    """Which sample each compared position belongs to, and whether its answer begins there."""

    sample: Tensor
    first: Tensor


@dataclass
class Reference:
    """A task's texts and, once `remember` has been called, what the base expects in them.

    Attributes:
        task: Its name.
        encoded: Prompts with their answers, in file order.
    """

    task: str
    encoded: Sequence[Encoded]
    processing: ModelSide
    batch_size: int = 16
    _batches: Batches = field(init=False, repr=False)
    _base: list[Tensor] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        self._batches = Batches(self.encoded, self.processing, self.batch_size, "right")

    @property
    def positions(self) -> Positions:
        """Of all compared positions, in the order that `compare` gives them."""
        samples, firsts = [], []
        for places, batch in self._batches:
            rows, _ = predicting(batch.supervised).nonzero(as_tuple=True)
            samples.append(torch.tensor(places)[rows])
            firsts.append(torch.diff(rows, prepend=torch.tensor([-1])) != 0)
        return Positions(torch.cat(samples), torch.cat(firsts))

    def remember(self, base: nn.Module) -> None:
        """Read the texts with the model that others will be compared with."""
        self._base, held = [], 0
        for values in self._expected(base):
            held += values.nbytes
            self._base.append(values if held <= KEPT_BYTES else _mapped(values))

    def compare(self, tuned: nn.Module, classes: Sequence[TokenClass]) -> tuple[Distances, Tensor]:
        """Hold a model against the one remembered.

        Returns:
            The distances at every position, and [vocabulary] the mean change of each token's
            probability.

        Raises:
            InputError: None was remembered, or the vocabularies differ.
            RunFailed: The model expects NaN.
        """
        if not self._base:
            raise InputError(f"{self.task}: no base has been read yet; call remember first")
        parts, moved, seen = [], torch.zeros(self._base[0].shape[-1]), 0
        for base, expected in zip(self._base, self._expected(tuned), strict=True):
            if base.shape != expected.shape:
                raise InputError(
                    f"{self.task}: the base has {base.shape[-1]:,} tokens and the model compared "
                    f"with it {expected.shape[-1]:,}; only models of one vocabulary compare"
                )
            parts.append(distances(base, expected, classes))
            moved += (expected.exp() - base.exp()).sum(dim=0)
            seen += len(base)
        return joined(parts), moved / seen

    def _expected(self, model: nn.Module) -> Iterator[Tensor]:
        """Log-probabilities [positions, vocabulary] of each batch, float32 on CPU."""
        device = next(model.parameters()).device
        with evaluating(model):
            for _, batch in self._batches:
                here = batch.to(device)
                logits = supervised_logits(model, here.inputs, predicting(here.supervised))
                if logits.isnan().any():
                    raise RunFailed(f"{self.task}: the model expects NaN: its weights are damaged")
                yield logits.float().log_softmax(dim=-1).cpu()


def _mapped(values: Tensor) -> Tensor:
    """The values in an unnamed file that is mapped into memory."""
    with tempfile.NamedTemporaryFile(prefix="narrowtune-") as file:
        file.truncate(values.nbytes)
        # The mapping outlives the file's name; its space is freed with the tensor.
        kept = torch.from_file(file.name, shared=True, size=values.numel(), dtype=values.dtype)
    return kept.reshape(values.shape).copy_(values)
