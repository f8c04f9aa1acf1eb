"""A search's folder: never overwritten, gone on with only by the same search."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from narrowtune.errors import InputError
from narrowtune.experiment import ArmSpec, Experiment, dump_experiment, parse_experiment
from narrowtune.models.loading import choose_dtype
from narrowtune.models.quantization import weight_bytes
from narrowtune.models.skeleton import BUNDLED
from narrowtune.record import (
    SEARCH_NAME,
    SearchRecord,
    read_search,
    write_search,
    write_text_atomically,
)
from narrowtune.runner import Plan
from narrowtune.search.budget import Budget

RECOMMENDED = "recommended.yaml"
_PATHS = ("train", "test", "images", "include_path", "data")
_FP32_ADAMW, _MASTER = 12, 4  # gradient and two moments; a copy beside bfloat16


def refuse_taken(folder: Path, resume: bool) -> None:
    """The part of `open_search` that needs no plan, to be asked before any data is read.

    Raises:
        InputError: If the folder holds another thing, or nothing to resume.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; --out needs a folder")
    if (folder / SEARCH_NAME).exists():
        if not resume:
            raise InputError(
                f"{folder} already holds a search ({read_search(folder).status}): continue it with "
                "--resume, or name another folder with --out; nothing is overwritten"
            )
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty and holds no search; name a new folder with --out")
    if resume:
        raise InputError(f"nothing to resume at {folder}: there is no {SEARCH_NAME}")


def open_search(
    folder: Path, plan: Plan, budget: Budget, resume: bool, device: str
) -> SearchRecord:
    """The record to go on with, or a fresh one, written into the folder.

    Args:
        folder: The search's.
        plan: Its arms are the candidates, in the order they are tried.
        budget: What may be spent; memory and allowed loss can't change on the way.
        resume: Whether a search in the folder is to be gone on with.
        device: Where candidates are taught.

    Raises:
        InputError: If the folder holds another search, or anything else, or nothing to resume; or
            no candidate fits the memory.
    """
    refuse_taken(folder, resume)
    if resume:
        return _gone_on_with(read_search(folder), folder, plan, budget)
    left_out = _too_large(plan, budget.memory, device)
    candidates = tuple(arm.name for arm in plan.arms if arm.name not in left_out)
    if not candidates:
        raise InputError([f"{name}: {why}" for name, why in left_out.items()])
    search = SearchRecord(
        digest=plan.digest,
        seconds=budget.seconds,
        memory=budget.memory,
        allowed_loss=budget.allowed_loss,
        candidates=candidates,
        left_out=left_out,
    )
    write_search(search, folder)
    return search


def write_recommended(experiment: Experiment, arm: ArmSpec, root: Path, folder: Path) -> Path:
    """The experiment with the recommended arm alone, as YAML in the folder, its paths rebased.

    Args:
        experiment: The whole one.
        arm: The recommended candidate.
        root: The folder that the experiment's relative paths start from.
        folder: The search's.
    """
    one = arm.model_copy(update={"of": None, "name": arm.family})
    raw = experiment.model_copy(update={"arms": (one,)}).model_dump(
        mode="json", exclude_defaults=True
    )
    for holder in _holders(raw):
        for key in _PATHS:
            if isinstance(holder.get(key), str):
                holder[key] = os.path.relpath(root / holder[key], folder)
    if (model := root / raw["model"]["id"]).is_dir() and raw["model"]["id"] not in BUNDLED:
        raw["model"]["id"] = os.path.relpath(model, folder)
    text = dump_experiment(parse_experiment(raw))
    write_text_atomically(folder / RECOMMENDED, text)
    return folder / RECOMMENDED


def _gone_on_with(search: SearchRecord, folder: Path, plan: Plan, budget: Budget) -> SearchRecord:
    problems = []
    if search.digest != plan.digest:
        problems.append(
            f"{folder} holds a search over another experiment or other data (digest "
            f"{search.digest[:12]}, now {plan.digest[:12]}): name another folder with --out"
        )
    for key in ("memory", "allowed_loss"):
        was, now = getattr(search, key), getattr(budget, key)
        if was != now:
            problems.append(
                f"{folder} was begun with {key} {was}, not {now}: candidates were dropped by it; "
                "give the same, or name another folder with --out"
            )
    if budget.seconds <= search.spent:
        problems.append(
            f"{search.spent / 60:.3g} minutes are spent already, of {budget.seconds / 60:.3g}: "
            "give more --minutes"
        )
    if problems:
        raise InputError(problems)
    return search.model_copy(update={"seconds": budget.seconds})


def _too_large(plan: Plan, memory: int | None, device: str) -> dict[str, str]:
    """Candidates whose weights, gradients and optimiser alone take more than the memory."""
    if memory is None:
        return {}
    left_out = {}
    dtype = choose_dtype(plan.experiment.model.dtype, device)
    halved = dtype.itemsize < 4
    for arm in plan.arms:
        weights = weight_bytes(arm.selection.total_numel, dtype, plan.quantization)
        taught = arm.trained_numel * (_FP32_ADAMW + (_MASTER if halved else 0))
        if weights + taught > memory:
            left_out[arm.name] = (
                f"weights, gradients and optimiser alone take {(weights + taught) / 2**30:.2f} "
                f"GiB, more than the {memory / 2**30:.2f} GiB allowed"
            )
    return left_out


def _holders(value: Any) -> Iterator[dict[str, Any]]:
    """Every dictionary inside a plain value."""
    if isinstance(value, dict):
        yield value
        for one in value.values():
            yield from _holders(one)
    elif isinstance(value, list):
        for one in value:
            yield from _holders(one)
