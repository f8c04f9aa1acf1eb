"""Fixed-reference probes: every model reads the same answers, and what it expected is compared.

The texts are a task's prompts with their right answers (teacher-forced), so that two models are
held against each other at the same positions; a probe on texts that each model writes itself
(`number_bias`) compares them at different ones.
"""

from __future__ import annotations

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
from narrowtune.probes.keeping import Kept


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
        batches: The same, padded.
    """

    task: str
    encoded: Sequence[Encoded]
    processing: ModelSide
    batch_size: int = 16
    batches: Batches = field(init=False, repr=False)
    _base: Kept = field(init=False, repr=False, default_factory=Kept)

    def __post_init__(self) -> None:
        self.batches = Batches(self.encoded, self.processing, self.batch_size, "right")

    @property
    def positions(self) -> Positions:
        """Of all compared positions, in the order that `compare` gives them."""
        samples, firsts = [], []
        for places, batch in self.batches:
            rows, _ = predicting(batch.supervised).nonzero(as_tuple=True)
            samples.append(torch.tensor(places)[rows])
            firsts.append(torch.diff(rows, prepend=torch.tensor([-1])) != 0)
        return Positions(torch.cat(samples), torch.cat(firsts))

    @property
    def vocabulary(self) -> int:
        """How many tokens the model that was remembered knows."""
        self._check_remembered()
        return self._base[0].shape[-1]

    def of_base(self, place: int) -> Tensor:
        """What the base expects in one text's answer: [positions, vocabulary], log-probabilities.

        Raises:
            InputError: None was remembered.
        """
        self._check_remembered()
        for places, values in zip(self.batches.places, self._base, strict=True):
            if place in places:
                lengths = [self.encoded[one].supervised_tokens for one in places]
                return torch.split(values, lengths)[places.index(place)]
        raise IndexError(f"{self.task} has no text {place}")

    def remember(self, base: nn.Module) -> None:
        """Read the texts with the model that others will be compared with."""
        self._base = Kept()
        for values in self._expected(base):
            self._base.keep(values)

    def compare(self, tuned: nn.Module, classes: Sequence[TokenClass]) -> tuple[Distances, Tensor]:
        """Hold a model against the one remembered.

        Returns:
            The distances at every position, and [vocabulary] the mean change of each token's
            probability.

        Raises:
            InputError: None was remembered, or the vocabularies differ.
            RunFailed: The model expects NaN.
        """
        parts, moved, seen = [], torch.zeros(self.vocabulary), 0
        for base, expected, right in self._pairs(tuned):
            parts.append(distances(base, expected, right, classes))
            moved += (expected.exp() - base.exp()).sum(dim=0)
            seen += len(base)
        return joined(parts), moved / seen

    def distances(self, tuned: nn.Module, classes: Sequence[TokenClass]) -> Distances:
        """The first of what `compare` gives, which costs less alone."""
        return joined([distances(*pair, classes) for pair in self._pairs(tuned)])

    def _pairs(self, tuned: nn.Module) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """What base and the other expect at the same positions, and what stands there, by batch."""
        self._check_remembered()
        rows = zip(self._base, self._expected(tuned), self.batches, strict=True)
        for base, expected, (_, batch) in rows:
            if base.shape != expected.shape:
                raise InputError(
                    f"{self.task}: the base has {base.shape[-1]:,} tokens and the model compared "
                    f"with it {expected.shape[-1]:,}; only models of one vocabulary compare"
                )
            yield base, expected, batch.inputs["input_ids"][batch.supervised]

    def _check_remembered(self) -> None:
        if not self._base:
            raise InputError(f"{self.task}: no base has been read yet; call remember first")

    def _expected(self, model: nn.Module) -> Iterator[Tensor]:
        """Log-probabilities [positions, vocabulary] of each batch, float32 on CPU."""
        device = next(model.parameters()).device
        with evaluating(model):
            for _, batch in self.batches:
                here = batch.to(device)
                logits = supervised_logits(model, here.inputs, predicting(here.supervised))
                if logits.isnan().any():
                    raise RunFailed(f"{self.task}: the model expects NaN: its weights are damaged")
                yield logits.float().log_softmax(dim=-1).cpu()
