"""From the residual stream to logits: the final norm as a linear map, and the output head.

Lengths of logit vectors are taken through Gram matrices of the head, [hidden, hidden], so that no
vector of the vocabulary's size is made for any position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from narrowtune.probes.branches import Written
from narrowtune.probes.classes import TokenClass

ROWS_AT_ONCE = 8192
"""Rows of the head made float64 together."""

_LARGE = 1024.0
"""Beside it the small number that a norm adds below the root is nothing; exact in bfloat16."""


@dataclass(frozen=True)
class FinalNorm:
    """A final norm: bias + weight * (x - mean(x)) / length(x), or the same without the mean.

    Measured rather than read off, as some families store the weight less one: whatever the class,
    its answers to three known vectors give weight and bias.

    Attributes:
        weight: [hidden], float64.
        bias: [hidden], float64.
        centred: Whether the mean is taken off (LayerNorm) or not (RMSNorm).
    """

    weight: Tensor
    bias: Tensor
    centred: bool

    @classmethod
    def measured(cls, norm: nn.Module, like: Tensor) -> FinalNorm:
        """The norm's weight and bias; `like` has the model's type, device and hidden size."""
        signs = torch.ones(like.shape[-1], dtype=like.dtype, device=like.device)
        signs[1::2] = -1

        def ask(vector: Tensor) -> Tensor:
            given: Tensor = norm((_LARGE * vector)[None, None])
            return given.cpu().double()[0, 0]

        there, back, flat = ask(signs), ask(-signs), ask(signs.abs())
        bias = (there + back) / 2
        # A norm that takes off the mean leaves nothing of a flat vector.
        centred = bool((flat - bias).norm() < 1e-2 * (there - bias).norm())
        x = signs.cpu().double()
        x = x - x.mean() if centred else x
        return cls((there - bias) * x.square().mean().sqrt() / x, bias, centred)

    def unscaled(self, x: Tensor) -> Tensor:
        """The norm of x before the division by its length, without the bias."""
        weight = self.weight.to(x.device)
        centre = x.mean(dim=-1, keepdim=True) if self.centred else torch.zeros_like(x[..., :1])
        return weight * (x - centre)

    def lengths(self, x: Tensor, normed: Tensor) -> Tensor:
        """By what each x was divided, [positions]: its root mean square or standard deviation."""
        unit = normed - self.bias
        found: Tensor = self.unscaled(x).norm(dim=-1) / unit.norm(dim=-1)
        return found

    def explains(self, x: Tensor, normed: Tensor, tolerance: float) -> bool:
        """Whether this is what the norm made of x, up to a share of its length."""
        made = self.unscaled(x) / self.lengths(x, normed)[:, None] + self.bias
        return bool((made - normed).norm() <= tolerance * normed.norm())


@dataclass(frozen=True)
class Readout:
    """How what a branch writes passes the final norm in one forward.

    Attributes:
        norm: None where no branch passes it by itself, `reason` saying why.
        lengths: What the norm divided by, [positions], float64.
    """

    norm: FinalNorm | None
    lengths: Tensor | None
    reason: str = ""

    @classmethod
    def of(cls, seen: Written) -> Readout:
        """Of a forward."""
        norm, like = seen.norm, seen.like
        if norm is None or like is None or seen.stream is None or seen.normed is None:
            return cls(None, None, "no single norm lies between the last layer and the output head")
        tolerance = torch.finfo(like.dtype).eps ** 0.5
        x, normed = seen.stream.double(), seen.normed.double()
        total = torch.stack(list(seen.parts.values())).double().sum(dim=0)
        if bool((total - x).norm() > tolerance * x.norm()):
            return cls(None, None, "the stream is more than the sum of what branches write into it")
        found = FinalNorm.measured(norm, like)
        if not found.explains(x, normed, tolerance):
            return cls(None, None, f"{type(norm).__name__} is no LayerNorm and no RMSNorm")
        return cls(found, found.lengths(x, normed))

    def through_norm(self, written: Tensor, base: Readout) -> Tensor:
        """What a branch has written, [positions, hidden], as the head reads it.

        The norm's own weight, but the base's lengths: the length is the whole stream's doing, and
        with the model's own a branch that has not changed would seem to, because others have.
        """
        assert self.norm is not None
        assert base.lengths is not None
        return self.norm.unscaled(written) / base.lengths.to(written)[:, None]

    def stretch(self, base: Readout) -> Tensor:
        """By how much the stream is longer than the base's, [positions]."""
        assert self.lengths is not None
        assert base.lengths is not None
        return self.lengths / base.lengths


@dataclass(frozen=True)
class Heads:
    """Two models' output heads, W of the tuned and V of the base, through Gram matrices.

    W h - V g = W (h - g) + (W - V) g, so its squared length is d'W'W d + 2 d'W'(W - V) g +
    g'(W - V)'(W - V) g with d = h - g; the same as h'W'W h - 2 h'W'V g + g'V'V g, but exactly 0
    where nothing has changed, and with no difference of large numbers where little has.

    Attributes:
        gram: W'W, [hidden, hidden], float64.
        cross: W'(W - V); None where the heads are equal.
        change: (W - V)'(W - V); None where the heads are equal.
    """

    gram: Tensor
    cross: Tensor | None = None
    change: Tensor | None = None

    @classmethod
    def of(cls, tuned: Tensor, base: Tensor | None = None) -> Heads:
        """Of heads [vocabulary, hidden]; without a base, of one that has not changed."""
        grams = [torch.zeros(2 * tuned.shape[1:], dtype=torch.float64, device=tuned.device)]
        grams += [torch.zeros_like(grams[0]) for _ in range(0 if base is None else 2)]
        for start in range(0, len(tuned), ROWS_AT_ONCE):
            rows = tuned[start : start + ROWS_AT_ONCE].double()
            grams[0] += rows.T @ rows
            if base is not None:
                moved = rows - base[start : start + ROWS_AT_ONCE].to(rows)
                grams[1] += rows.T @ moved
                grams[2] += moved.T @ moved
        return cls(*grams)

    def apart(self, tuned: Tensor, base: Tensor) -> Tensor:
        """How far the logits of two vectors [positions, hidden] lie apart: [positions]."""
        moved = tuned - base
        squared = ((moved @ self.gram) * moved).sum(dim=-1)
        if self.cross is not None and self.change is not None:
            squared = squared + 2 * ((moved @ self.cross) * base).sum(dim=-1)
            squared = squared + ((base @ self.change) * base).sum(dim=-1)
        return squared.clamp(min=0).sqrt()


def directions(head: Tensor, classes: Sequence[TokenClass]) -> Mapping[str, Tensor]:
    """Per class that has tokens: the mean row of its tokens less the mean row, [hidden] float64."""
    mean = torch.zeros(head.shape[1], dtype=torch.float64, device=head.device)
    for start in range(0, len(head), ROWS_AT_ONCE):
        mean += head[start : start + ROWS_AT_ONCE].double().sum(dim=0)
    mean /= len(head)
    return {
        one.name: head[torch.tensor(one.ids, device=head.device)].double().mean(dim=0) - mean
        for one in classes
        if one.ids
    }
