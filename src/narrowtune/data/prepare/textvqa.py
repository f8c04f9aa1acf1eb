"""TextVQA v0.5.1: questions about text in photographs, ten people's answers each.

Two layouts are read: the authors' JSON files with their images, and the hub's parquet shards.
The test split has no public answers, so the validation split is what is scored, as is usual.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from narrowtune.data.prepare.parquet import Table, hub, image_bytes, shards
from narrowtune.data.prepare.release import Dataset, Item, LeftOut, Rows, Source, chosen, require
from narrowtune.errors import InputError

REPOSITORY = "lmms-lab/textvqa"
JSON_FILES = {"train": "TextVQA_0.5.1_train.json", "test": "TextVQA_0.5.1_val.json"}
SPLITS = {"train": "train", "test": "validation"}
COLUMNS = ("image", "image_id", "question_id", "question", "answers")
LAYOUT = (
    f"{{{','.join(JSON_FILES.values())}}} and train_images/<image_id>.jpg (textvqa.org), or as "
    f"data/{{train,validation}}-00000-of-0000N.parquet (hub, {REPOSITORY})"
)
FORM = "Answer the question using a single word or phrase."


def open_release(source: Source, seed: int) -> Mapping[str, Rows]:
    """Training rows from the training split, test rows from the validation split.

    Raises:
        InputError: Naming files, shards or columns that are missing.
    """
    folder = source.folder
    if any((folder / name).is_file() for name in JSON_FILES.values()):
        require(folder, JSON_FILES.values(), LAYOUT)
        return {split: _from_json(folder, split) for split in SPLITS}
    return {split: _from_parquet(folder, split) for split in SPLITS}


def taught(answers: list[str]) -> tuple[str, ...]:
    """The answers with the one that most people gave first (of several, the earliest)."""
    most, _ = Counter(answers).most_common(1)[0]
    first = answers.index(most)
    return (most, *answers[:first], *answers[first + 1 :])


def _from_json(folder: Path, split: str) -> Rows:
    path = folder / JSON_FILES[split]
    try:
        data = json.loads(path.read_text(encoding="utf-8"))["data"]
        images = [f"train_images/{row['image_id']}.jpg" for row in data]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no TextVQA file: {type(error).__name__} {error}") from error
    require(folder, dict.fromkeys(images), LAYOUT)

    def items() -> Iterator[Item | LeftOut]:
        for row, image in zip(data, images, strict=True):
            yield _item(row, split, folder / image)

    return Rows(len(data), lambda wanted: chosen(items(), wanted))


def _from_parquet(folder: Path, split: str) -> Rows:
    table = Table(shards(folder, SPLITS[split], LAYOUT), COLUMNS)

    def items() -> Iterator[Item | LeftOut]:
        for row in table:
            yield _item(row, split, image_bytes(row["image"]))

    return Rows(table.count, lambda wanted: chosen(items(), wanted))


def _item(row: Mapping[str, Any], split: str, image: bytes | Path | None) -> Item | LeftOut:
    key = f"textvqa-{split}-{row.get('question_id')}"
    answers = [answer.strip() for answer in row.get("answers") or () if answer and answer.strip()]
    question = (row.get("question") or "").strip()
    if image is None or not question:
        return LeftOut(key, "it has no image or no question")
    if not answers:
        return LeftOut(key, "it has no answers")
    return Item(key, image, f"{question}\n{FORM}", taught(answers))


TEXTVQA = Dataset(
    name="textvqa",
    title="TextVQA v0.5.1 (Singh et al. 2019)",
    homepage="https://textvqa.org/dataset/",
    licence="CC BY 4.0",
    metric="vqa",
    layout=LAYOUT,
    sizes={"train": 34602, "test": 5000},
    fetch=hub(REPOSITORY, ["data/train-*.parquet", "data/validation-*.parquet"]),
    open=open_release,
)
