"""The drawn world's tasks as files: what experiments/pico teaches and asks."""

from __future__ import annotations

from pathlib import Path

from narrowtune import pico
from narrowtune.data.prepare.download import digest
from narrowtune.data.prepare.manifest import Manifest, begin, of_images
from narrowtune.data.prepare.release import Progress

TRAIN, TEST = 2560, 120


def draw(out: Path, progress: Progress, *, train: int, test: int, seed: int) -> Manifest:
    """Draw `<task>/test.jsonl` for every task, and `<task>/train.jsonl` for the taught skills.

    Args:
        out: The folder for it: empty, new, or one where the same was broken off.
        progress: Told how far it is.
        train: Training rows of each skill.
        test: Test rows of each task.
        seed: Another seed draws other pictures.

    Raises:
        InputError: If the folder holds something else.
    """
    manifest = begin(out, "pico", {"train": train, "test": test, "seed": seed})
    if manifest.complete and not manifest.damaged(out):
        return manifest
    asked = [(task, "test", test) for task in pico.METRICS]
    asked += [(task, "train", train) for task in pico.TARGETS]
    for done, (task, split, count) in enumerate(asked):
        progress(f"drawing {task}", done, len(asked))
        path = pico.write(out, task, split, count, seed)
        name = path.relative_to(out).as_posix()
        manifest.files[name], manifest.images[name] = digest(path), of_images(path)
        manifest.rows[f"{task}/{split}"] = count
    manifest.complete = True
    manifest.title, manifest.licence = "narrowtune's drawn world", "Apache-2.0"
    manifest.write(out)
    return manifest
