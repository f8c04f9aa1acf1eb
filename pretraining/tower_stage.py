"""Stage 1: the vision tower learns to tell what each cell shows, through linear heads."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from lessons import LABELS, LETTERS
from log import Log
from pools import UNKNOWN, Pool
from torch import Tensor, nn
from torch.nn import functional
from towers import see

WIDTH = 128
SIZES = [len(classes) for classes in LABELS.values()]
SHARES = {"documents": 2.0, "reading": 1.5, "clock": 1.5}  # how often a picture is drawn


def loss_of(logits: Tensor, labels: Tensor, letters: Tensor) -> Tensor:
    """Mean cross entropy of each kind of fact, added up, and that of the letters.

    Args:
        logits: (B, 9, classes of all facts + 26).
        labels: (B, facts, 9) class numbers or `UNKNOWN`.
        letters: (B, 9, 26) ones and zeros, -1 where nothing is written.
    """
    *facts, spelling = logits.float().split([*SIZES, len(LETTERS)], dim=-1)
    written = letters >= 0
    total = 4 * functional.binary_cross_entropy_with_logits(
        spelling[written], letters[written].float()
    )
    for row, part in enumerate(facts):
        wanted = labels[:, row]
        if bool((wanted != UNKNOWN).any()):
            total = total + functional.cross_entropy(
                part.flatten(0, 1), wanted.flatten(), ignore_index=UNKNOWN
            )
    return total


@torch.no_grad()
def accuracy(model: Any, heads: nn.Module, pool: Pool) -> dict[str, float]:
    """How often each kind of fact is told right, over the cells that have it."""
    right, seen, sizes = [0] * len(SIZES), [0] * len(SIZES), [*SIZES, len(LETTERS)]
    for start in range(0, len(pool.images), 250):
        images = torch.from_numpy(pool.images[start : start + 250])
        labels = torch.from_numpy(pool.labels[start : start + 250])
        for row, part in enumerate(heads(see(model, images)).split(sizes, dim=-1)[:-1]):
            known = labels[:, row] != UNKNOWN
            right[row] += int(((part.argmax(-1) == labels[:, row]) & known).sum())
            seen[row] += int(known.sum())
    told = {k: 100 * r / max(1, n) for k, r, n in zip(LABELS, right, seen, strict=True)}
    return told | {"letters": spelling(model, heads, pool)}


def spelling(model: Any, heads: nn.Module, pool: Pool) -> float:
    """Percent of the cells with writing whose letters are told without a mistake."""
    written = pool.letters.max(axis=(1, 2)) > 0
    letters = torch.from_numpy(pool.letters[written]) > 0
    told = heads(see(model, torch.from_numpy(pool.images[written])))[..., -len(LETTERS) :] > 0
    whole = (told == letters).all(-1)[letters.any(-1)]
    return 100 * float(whole.float().mean())


def rate(step: int, steps: int, peak: float, warm: int = 60) -> float:
    """Linear warm-up, then a cosine down to a twentieth of the peak."""
    if step < warm:
        return peak * (step + 1) / warm
    part = (step - warm) / max(1, steps - warm)
    return peak * (0.05 + 0.475 * (1 + math.cos(math.pi * part)))


def trained_parts(model: Any) -> list[nn.Parameter]:
    """The vision tower and what lies between it and the language model."""
    inner = model.model
    if hasattr(inner, "visual"):
        return list(inner.visual.parameters())
    return [*inner.vision_tower.parameters(), *inner.multi_modal_projector.parameters()]


def teach(model: Any, pool: Pool, fresh: Pool, steps: int, peak: float, log: Log) -> nn.Module:
    """Trains tower and heads in place; returns the heads, which are thrown away later."""
    torch.manual_seed(1)
    heads = nn.Sequential(nn.RMSNorm(WIDTH), nn.Linear(WIDTH, sum(SIZES) + len(LETTERS)))
    parameters = [*trained_parts(model), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=peak, weight_decay=0.02, betas=(0.9, 0.98))
    share = torch.tensor([SHARES.get(task, 1.0) for task in pool.tasks])
    order, began, mean = torch.Generator().manual_seed(1), time.monotonic(), 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps, peak)
        pick = torch.multinomial(share, 128, replacement=True, generator=order).numpy()
        images, labels = torch.from_numpy(pool.images[pick]), torch.from_numpy(pool.labels[pick])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = heads(see(model, images))
        loss = loss_of(logits, labels, torch.from_numpy(pool.letters[pick]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        mean += (float(loss.detach()) - mean) / min(step + 1, 50)
        if (step + 1) % 50 == 0:
            log(f"tower {step + 1:5d}/{steps} loss {mean:7.3f} {time.monotonic() - began:6.0f} s")
        if (step + 1) % 200 == 0 or step + 1 == steps:
            told = accuracy(model, heads, fresh)
            log("  told right " + " ".join(f"{k} {v:.0f}" for k, v in told.items()))
    return heads
