"""Pictures drawn ahead as arrays, with the labels of their cells and their questions."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lessons import EXTRA, LABELS, LETTERS, picture, surroundings

from narrowtune.pico import HELD_OUT, TARGETS
from narrowtune.pico.picture import Cells

UNKNOWN = -100  # the label of a fact that a picture says nothing about; ignored by the loss
COUNTS = {"documents": 7000, "reading": 12_000, "clock": 6000, "relations": 4500}
USUAL = 3500
FRESH = 1_000_000  # first index of the pictures that progress is measured on


@dataclass(frozen=True)
class Pool:
    """Drawn pictures.

    Attributes:
        tasks: The task of each picture.
        images: uint8 (N, 84, 84, 3).
        labels: int64 (N, facts, 9), `UNKNOWN` where a picture has no such fact.
        letters: int8 (N, 9, 26), which letters stand in each cell; -1 where none are written.
        questions: The (question, answer) pairs of each picture.
    """

    tasks: list[str]
    images: np.ndarray
    labels: np.ndarray
    letters: np.ndarray
    questions: list[tuple[tuple[str, str], ...]]


def encode(cells: Cells) -> np.ndarray:
    """The facts about nine cells as class numbers, one row per kind of fact."""
    rows = np.full((len(LABELS), 9), UNKNOWN, dtype=np.int64)
    for row, (kind, classes) in enumerate(LABELS.items()):
        if kind in cells:
            rows[row] = [classes.index(value) for value in cells[kind]]
    return rows


def spelled(cells: Cells) -> np.ndarray:
    """Which letters stand in each cell, as zeros and ones (9, 26); -1 without any writing."""
    if "letters" not in cells:
        return np.full((9, len(LETTERS)), -1, dtype=np.int8)
    return np.array([[c in cell for c in LETTERS] for cell in cells["letters"]], dtype=np.int8)


def draw_pool(counts: dict[str, int], seed: int, start: int = 0) -> Pool:
    """Pictures of each task, as many as `counts` says."""
    names = [task for task, count in counts.items() for _ in range(count)]
    images = np.empty((len(names), 84, 84, 3), dtype=np.uint8)
    labels = np.empty((len(names), len(LABELS), 9), dtype=np.int64)
    letters = np.empty((len(names), 9, len(LETTERS)), dtype=np.int8)
    questions, place = [], 0
    for task, count in counts.items():
        for index in range(count):
            drawn = picture(task, start + index, seed)
            images[place], labels[place] = (
                np.asarray(drawn.image),
                encode(surroundings(drawn.cells)),
            )
            letters[place] = spelled(drawn.cells)
            questions.append(drawn.questions)
            place += 1
    return Pool(names, images, labels, letters, questions)


def training_pool(seed: int, cache: Path, scale: float = 1.0) -> Pool:
    """The pool that both stages learn from, drawn once and kept in `cache`."""
    if cache.exists():
        with cache.open("rb") as file:
            pool: Pool = pickle.load(file)
        return pool
    tasks = (*HELD_OUT, *EXTRA, *TARGETS)
    pool = draw_pool({task: int(scale * COUNTS.get(task, USUAL)) for task in tasks}, seed)
    with cache.open("wb") as file:
        pickle.dump(pool, file, protocol=5)
    return pool


def fresh_pool(seed: int, per_task: int) -> Pool:
    """Pictures that are in no training pool, to measure progress on."""
    tasks = (*HELD_OUT, *EXTRA, *TARGETS)
    return draw_pool({task: per_task for task in tasks}, seed, start=FRESH)
