"""How much must be added to the logits of answer classes for a shift of the output to go away.

One number per class of tokens, estimated without labels and without training: on calibration
prompts the tuned model, read where the base answers, shall give each class as much probability on
average as the base does. That is calibration of class priors (Zhao et al., "Calibrate Before Use",
arXiv 2102.09690) towards the base's own, with classes of tokens in the place of labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp
from torch import Tensor

from narrowtune.models.correcting import TokenOffsets
from narrowtune.probes.classes import TokenClass
from narrowtune.probes.reference import Positions

LARGEST = 15.0
"""Nats; a class that the base never uses would else be pushed away without end."""

MISSED = 0.001
"""Mean probability; an offset at its bound counts as too small where it leaves so much."""

Array = NDArray[np.float64]


def without_common(classes: Sequence[TokenClass]) -> tuple[TokenClass, ...]:
    """The same classes, a token that several hold left in the first; those left empty are gone."""
    taken: set[int] = set()
    found = []
    for one in classes:
        ids = tuple(token for token in one.ids if token not in taken)
        taken.update(ids)
        if ids:
            found.append(TokenClass(one.name, ids))
    return tuple(found)


def class_offsets(base: Array, tuned: Array) -> Array:
    """The number for each class that brings its mean probability to the base's.

    Minimises mean_i log(sum_c m_ic exp(b_c)) - sum_c t_c b_c over b, m the tuned model's class
    probabilities and t the base's means: convex, and where its gradient is 0 the means agree.

    Args:
        base: Probability of each class at each position: [positions, classes]; what is left to 1
            belongs to no class and keeps its logits.
        tuned: The same of the tuned model.

    Returns:
        Nats to add to the logits: [classes], within `LARGEST` of 0.
    """
    if not base.size:
        return np.zeros(base.shape[1])
    tiny = np.finfo(np.float64).tiny
    logs = np.log(np.maximum(_with_rest(tuned), tiny))
    target = base.mean(axis=0)

    def loss(offsets: Array) -> tuple[float, Array]:
        whole, shares = _moved(logs, offsets)
        return float(whole - offsets @ target), shares - target

    bounds = [(-LARGEST, LARGEST)] * len(target)
    found: Array = minimize(
        loss, np.zeros(len(target)), jac=True, bounds=bounds, method="L-BFGS-B",
        options={"ftol": 1e-14, "gtol": 1e-9, "maxiter": 1000},
    ).x  # fmt: skip
    return found


def too_small(base: Array, tuned: Array, offsets: Array) -> NDArray[np.bool_]:
    """Which classes' offsets are at their bound and still leave the base's mean unmet: [classes].

    Args:
        base: As `class_offsets` takes it.
        tuned: As `class_offsets` takes it.
        offsets: What it gave.
    """
    at_bound = np.abs(offsets) > LARGEST - 1e-6
    if not at_bound.any():
        return at_bound
    logs = np.log(np.maximum(_with_rest(tuned), np.finfo(np.float64).tiny))
    left: NDArray[np.bool_] = np.abs(_moved(logs, offsets)[1] - base.mean(axis=0)) > MISSED
    return at_bound & left


def token_offsets(
    classes: Sequence[TokenClass],
    positions: Positions,
    masses: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    vocabulary: int,
) -> tuple[TokenOffsets, tuple[str, ...]]:
    """Offsets of all tokens, for the first of an answer and for the later ones.

    With them the names of classes whose offset would have to be larger than it may be.

    Args:
        classes: That share no token.
        positions: Of the calibration answers.
        masses: The classes' probability at those positions, the base's and the tuned model's.
        vocabulary: How many tokens the model knows.
    """
    base, tuned = (_columns(one, classes, len(positions.first)) for one in masses)
    first = positions.first.numpy()
    spread, short = [], []
    for name, there in (("first token", first), ("later tokens", ~first)):
        offsets = class_offsets(base[there], tuned[there])
        spread.append(_spread(classes, offsets, vocabulary))
        bounded = too_small(base[there], tuned[there], offsets)
        short += [f"{one.name} ({name})" for one, at in zip(classes, bounded, strict=True) if at]
    return TokenOffsets(*spread), tuple(short)


def _columns(masses: Mapping[str, Tensor], classes: Sequence[TokenClass], rows: int) -> Array:
    columns = [masses[one.name].double().numpy() for one in classes]
    return np.stack(columns, axis=1) if columns else np.zeros((rows, 0))


def _moved(logs: Array, offsets: Array) -> tuple[float, Array]:
    """With offsets added: mean log of the sum over classes, and each one's mean probability."""
    moved = logs + np.append(offsets, 0.0)
    whole = logsumexp(moved, axis=1)
    return float(whole.mean()), np.exp(moved - whole[:, None]).mean(axis=0)[:-1]


def _with_rest(masses: Array) -> Array:
    rest = np.clip(1.0 - masses.sum(axis=1, keepdims=True), 0.0, 1.0)
    return np.concatenate([masses, rest], axis=1)


def _spread(classes: Sequence[TokenClass], offsets: Array, vocabulary: int) -> Tensor:
    found = torch.zeros(vocabulary)
    for one, offset in zip(classes, offsets.tolist(), strict=True):
        found[list(one.ids)] = offset
    return found
