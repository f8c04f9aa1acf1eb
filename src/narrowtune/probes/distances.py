"""How far two next-token distributions lie apart, position by position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from narrowtune.probes.classes import TokenClass

ROWS_AT_ONCE = 64
"""Positions compared together: a row of a large vocabulary is 600 KB, and there are six copies."""

TOP = 10
COLUMNS = ("kl", "reverse_kl", "top1", "top10", "entropy", "answer_loss")


@dataclass(frozen=True)
class Distances:
    """One number per position, as float32 on CPU.

    Attributes:
        kl: KL(base || tuned), nats.
        reverse_kl: KL(tuned || base), nats.
        top1: 1 where both find the same token likeliest.
        top10: Share of base's ten likeliest tokens that are among tuned's.
        entropy: Of tuned, nats.
        answer_loss: How much less tuned expects the token that stands there, the right answer's:
            log p - log q of it, nats.
        masses: Per class, the probability that tuned gives its tokens together.
    """

    kl: Tensor
    reverse_kl: Tensor
    top1: Tensor
    top10: Tensor
    entropy: Tensor
    answer_loss: Tensor
    masses: Mapping[str, Tensor]

    def where(self, chosen: Tensor) -> Distances:
        """The same of some positions; `chosen` is bool, [positions]."""
        masses = {name: mass[chosen] for name, mass in self.masses.items()}
        return Distances(**{name: getattr(self, name)[chosen] for name in COLUMNS}, masses=masses)


def distances(
    base: Tensor, tuned: Tensor, right: Tensor, classes: Sequence[TokenClass]
) -> Distances:
    """Compares two models' log-probabilities at the same positions.

    Args:
        base: [positions, vocabulary], natural logarithms.
        tuned: The same of the other model.
        right: [positions], the token that stands there.
        classes: Whose probability is added up; empty ones are left out.
    """
    starts = range(0, len(base), ROWS_AT_ONCE)
    rows = [slice(start, start + ROWS_AT_ONCE) for start in starts]
    return joined([_compare((base[part], tuned[part]), right[part], classes) for part in rows])


def joined(parts: Sequence[Distances]) -> Distances:
    """The same of all positions, one part after the other."""
    masses = {name: torch.cat([part.masses[name] for part in parts]) for name in parts[0].masses}
    columns = {name: torch.cat([getattr(part, name) for part in parts]) for name in COLUMNS}
    return Distances(**columns, masses=masses)


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of log-probabilities [positions, vocabulary], nats; what p never says counts 0."""
    unsaid = p.isneginf()  # set aside before, not after: its gradient would be 0 times infinity
    terms = p.exp() * (p.masked_fill(unsaid, 0.0) - q.masked_fill(unsaid, 0.0))
    return terms.sum(dim=-1)


def _compare(
    pair: tuple[Tensor, Tensor], right: Tensor, classes: Sequence[TokenClass]
) -> Distances:
    base, tuned = pair
    before, after = (one.gather(1, right[:, None])[:, 0] for one in pair)
    probable = tuned.exp()
    of_base, of_tuned = (one.topk(min(TOP, one.shape[-1])).indices for one in (base, tuned))
    shared = (of_base[:, :, None] == of_tuned[:, None, :]).any(dim=-1)
    return Distances(
        kl=kl_divergence(base, tuned),
        reverse_kl=kl_divergence(tuned, base),
        top1=(of_base[:, 0] == of_tuned[:, 0]).float(),
        top10=shared.float().mean(dim=-1),
        entropy=torch.where(tuned.isneginf(), 0.0, -probable * tuned).sum(dim=-1),
        answer_loss=torch.where(before == after, 0.0, before - after),  # inf - inf is no number
        masses={
            one.name: probable[:, torch.tensor(one.ids)].sum(dim=-1) for one in classes if one.ids
        },
    )
