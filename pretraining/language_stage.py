"""Stages 2 and 3: the language model learns captions, then everything, over a finished tower.

The tower stays as stage 1 left it, so its nine tokens per picture are computed once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from log import Log
from pools import Pool
from prompts import IGNORED, Rows
from torch import Tensor, nn
from torch.nn import functional
from tower_stage import rate
from towers import arrange, see

from narrowtune.pico import HELD_OUT, TARGETS

BATCH = 128
CAPTIONS = {"captions": 1.0, "places": 1.0, "drill": 1.0, "lists": 3.0, "letters": 2.0}
MEASURE = 250  # steps between measurements
WINDOW = 8  # batches cut from one sorted draw, so that rows of like length meet


@dataclass(frozen=True)
class Material:
    """Rows of text with the tower's tokens of their pictures."""

    rows: Rows
    seen: Tensor


@dataclass(frozen=True)
class Plan:
    """Steps on captions first, steps in all, peak learning rate."""

    captions: int
    steps: int
    peak: float


@dataclass(frozen=True)
class Lesson:
    """What to learn from, what to measure progress on, how long and how fast."""

    data: Material
    fresh: Material
    plan: Plan


@torch.no_grad()
def features(model: Any, pool: Pool) -> Tensor:
    """The tower's tokens of every picture, in half precision: (N, 9, width)."""
    parts = []
    for start in range(0, len(pool.images), 250):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            seen = see(model, torch.from_numpy(pool.images[start : start + 250]))
        parts.append(seen.to(torch.bfloat16))
    return torch.cat(parts)


def place(model: Any, ids: Tensor) -> Tensor:
    """Position ids: plain numbers, or the three of Qwen's axes where there are images."""
    count, length = ids.shape
    plain = torch.arange(length).expand(count, length)
    if not hasattr(model.model, "visual"):
        return plain
    image = ids == model.config.image_token_id
    first = torch.where(image.any(1), image.int().argmax(1), torch.full((count,), length))[:, None]
    inside = (plain - first).clamp(0, 8)
    after = torch.where(plain >= first + 9, plain - 6, plain)
    axes = [torch.where(image, first + move, after) for move in (0, inside // 3, inside % 3)]
    return torch.stack(axes)


def think(model: Any, ids: Tensor, seen: Tensor | None) -> Tensor:
    """The language model's last hidden states over rows of tokens with their image tokens."""
    inner = model.model
    x = inner.get_input_embeddings()(ids)
    if seen is not None:
        image = (ids == model.config.image_token_id).unsqueeze(-1)
        x = x.masked_scatter(image, arrange(model, seen.to(x.dtype)))
    mask = torch.ones_like(ids)
    state = inner.language_model(
        inputs_embeds=x, attention_mask=mask, position_ids=place(model, ids), use_cache=False
    )
    return state.last_hidden_state


def predict(model: Any, rows: Rows, pick: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and labels at the supervised positions of some rows (one group: (M, V), (M,))."""
    length = int(rows.lengths[pick].max())
    ids, labels = rows.ids[pick, :length].long(), rows.labels[pick, :length].long()
    pictures = rows.pictures[pick]
    shown = seen[pictures[pictures >= 0]] if bool((pictures >= 0).any()) else None
    states = think(model, ids, shown)
    wanted = labels != IGNORED
    return model.lm_head(states[wanted]), labels[wanted]


def batches(rows: Rows, weights: dict[str, float], seed: int) -> Iterator[Tensor]:
    """Endless batches of row numbers; tasks are drawn by weight, rows of a task evenly."""
    rng = np.random.default_rng(seed)
    of: dict[str, np.ndarray] = {}
    tasks = np.array(rows.tasks)
    for task in weights:
        of[task] = np.flatnonzero(tasks == task)
    names, lengths = list(weights), rows.lengths.numpy()
    share = np.array([weights[name] for name in names])
    while True:
        counts = rng.multinomial(BATCH * WINDOW, share / share.sum())
        drawn = [rng.choice(of[n], c) for n, c in zip(names, counts, strict=True)]
        pick = np.concatenate(drawn)
        pick = pick[np.argsort(lengths[pick] + rng.random(len(pick)), kind="stable")]
        for part in rng.permutation(pick.reshape(WINDOW, BATCH)):
            yield torch.from_numpy(part)


@torch.no_grad()
def scores(model: Any, rows: Rows, seen: Tensor) -> dict[str, float]:
    """Share of rows whose every answer token is the likeliest: greedy exact match, in percent."""
    right: dict[str, list[bool]] = {}
    order = rows.lengths.argsort()
    for pick in order.split(200):
        logits, labels = predict(model, rows, pick, seen)
        good = (logits.argmax(-1) == labels).split((rows.labels[pick] != IGNORED).sum(1).tolist())
        for index, part in zip(pick.tolist(), good, strict=True):
            right.setdefault(rows.tasks[index], []).append(bool(part.all()))
    return {task: 100 * sum(r) / len(r) for task, r in sorted(right.items())}


def reweigh(told: dict[str, float]) -> dict[str, float]:
    """Tasks that lag come oftener, abilities more so than the helper tasks."""
    pull = {task: 2.0 if task in HELD_OUT else 0.4 for task in told}
    return {task: 0.2 + pull[task] * (100 - value) / 100 for task, value in told.items()}


@dataclass
class Progress:
    """Where stages 2 and 3 stand: enough to go on from a measurement as if never stopped."""

    optimizer: torch.optim.Optimizer
    step: int = 0


Keep = Callable[[Progress, dict[str, float]], None]


def begin(model: Any, plan: Plan) -> Progress:
    """A fresh optimizer over what these stages train."""
    parameters = language_parameters(model)
    return Progress(
        torch.optim.AdamW(parameters, lr=plan.peak, weight_decay=0.02, betas=(0.9, 0.98))
    )


def teach(model: Any, lesson: Lesson, at: Progress, log: Log, keep: Keep) -> None:
    """Trains the language model in place.

    Args:
        model: A model with a taught tower.
        lesson: What to learn from, what to measure on, how long and how fast.
        at: Where to start from.
        log: Where progress is written.
        keep: Called at every measurement with the progress and the scores.
    """
    data, fresh, plan = lesson.data, lesson.fresh, lesson.plan
    parameters, began, mean = language_parameters(model), time.monotonic(), 0.0
    model.model.language_model.set_attn_implementation("eager")  # bfloat16 on a CPU: 2x faster
    source = batches(data.rows, CAPTIONS, seed=0)
    for step in range(at.step, plan.steps):
        if step >= plan.captions and step % MEASURE == 0:
            weights = measure(model, fresh, log, keep, at)
            source = batches(data.rows, weights, seed=step)
        for group in at.optimizer.param_groups:
            group["lr"] = rate(step, plan.steps, plan.peak)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, labels = predict(model, data.rows, next(source), data.seen)
        loss = functional.cross_entropy(logits.float(), labels)
        at.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        at.optimizer.step()
        at.step = step + 1
        mean += (float(loss.detach()) - mean) / min(at.step, 50)
        if at.step % 50 == 0:
            passed = time.monotonic() - began
            log(f"words {at.step:5d}/{plan.steps} loss {mean:6.3f} {passed:6.0f} s")
    measure(model, fresh, log, keep, at)


def measure(model: Any, fresh: Material, log: Log, keep: Keep, at: Progress) -> dict[str, float]:
    """Scores the model, writes them down, and returns the weight of each task from here on."""
    told = scores(model, fresh.rows, fresh.seen)
    log(f"  step {at.step} scores " + " ".join(f"{k} {v:.0f}" for k, v in told.items()))
    keep(at, told)
    return reweigh({task: value for task, value in told.items() if task not in TARGETS})


def language_parameters(model: Any) -> list[nn.Parameter]:
    """What stages 2 and 3 train: the language tower, the head, LLaVA's newline."""
    kept = [*model.model.language_model.parameters(), *model.lm_head.parameters()]
    if hasattr(model.model, "image_newline"):
        kept.append(model.model.image_newline)
    unique = {id(p): p for p in kept}
    return list(unique.values())
