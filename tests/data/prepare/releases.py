"""Small releases laid out exactly as the public ones: same files, same columns, real images.

And what was made of them, to look at.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def jpeg(seed: int, size: tuple[int, int] = (24, 20)) -> bytes:
    """The bytes of a JPEG that no other seed gives."""
    image = Image.new("RGB", size, (seed * 37 % 256, seed * 91 % 256, seed * 7 % 256))
    image.paste((255 - seed % 256, 40, seed // 256), (2, 2, 12, 12))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=95)
    return data.getvalue()


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def cub200(folder: Path, classes: int = 30, each: int = 2) -> Path:
    """CUB_200_2011 as its archive unpacks, with the first image of a class for training."""
    root = folder / "CUB_200_2011"
    names = [f"{n:03d}.Kind_{n}_Finch" for n in range(1, classes + 1)]
    images = [
        (c, f"{names[c]}/Kind_{c}_{k:04d}.jpg", k) for c in range(classes) for k in range(each)
    ]
    lists: dict[str, list[str]] = {
        "classes.txt": [f"{n} {name}" for n, name in enumerate(names, start=1)],
        "images.txt": [f"{n} {path}" for n, (_, path, _) in enumerate(images, start=1)],
        "image_class_labels.txt": [f"{n} {c + 1}" for n, (c, _, _) in enumerate(images, start=1)],
        "train_test_split.txt": [
            f"{n} {int(k == 0)}" for n, (_, _, k) in enumerate(images, start=1)
        ],
    }
    for name, lines in lists.items():
        write(root / name, "\n".join(lines) + "\n")
    for number, (_, path, _) in enumerate(images):
        write(root / "images" / path, jpeg(number))
    return folder


def shard(
    folder: Path, split: str, rows: Sequence[dict[str, Any]], place: str = "00000-of-00001"
) -> Path:
    """A parquet file as `push_to_hub` names it."""
    path = folder / "data" / f"{split}-{place}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def cell(seed: int) -> dict[str, Any]:
    """An image as `datasets` stores one."""
    return {"bytes": jpeg(seed), "path": f"img_{seed}.jpg"}


def pathvqa(folder: Path) -> Path:
    """path-vqa: two training shards, several questions per image, a split we do not use."""
    asked = [
        ("is this a liver?", "yes"),
        ("what is shown?", "renal cortex"),
        ("where?", "in the wall"),
    ]
    rows = [
        {"image": cell(number), "question": question, "answer": answer}
        for number in range(4)
        for question, answer in asked
    ]
    shard(folder, "train", rows[:6], "00000-of-00002")
    shard(folder, "train", rows[6:], "00001-of-00002")
    shard(folder, "validation", rows[:1])
    test = [
        {"image": cell(number), "question": q, "answer": a} for number in (7, 8) for q, a in asked
    ]
    shard(folder, "test", test)
    return folder


ANSWERS = "nous les gosses|dakota|clos culombu|dakota digital|dakota digital|dakota digital|dakota"
ANSWERS_OF_TEN = [*ANSWERS.split("|"), "dakota digital", "dakota", "unanswerable"]


def _textvqa_row(number: int, split: str) -> dict[str, Any]:
    return {
        "image_id": f"{number:016x}",
        "question_id": 34602 + number,
        "question": "what is the brand of this camera?",
        "question_tokens": ["what", "is", "the", "brand", "of", "this", "camera"],
        "image_classes": ["Cassette deck"],
        "flickr_original_url": f"https://farm2.staticflickr.com/{number}_o.jpg",
        "flickr_300k_url": f"https://c4.staticflickr.com/{number}_z.jpg",
        "image_width": 24,
        "image_height": 20,
        "answers": ANSWERS_OF_TEN,
        "set_name": split,
    }


TEXTVQA = {"train": range(5), "val": range(20, 23)}


def textvqa_json(folder: Path) -> Path:
    """TextVQA_0.5.1_{train,val}.json and train_images, where the validation's images lie too."""
    for split, numbers in TEXTVQA.items():
        rows = [_textvqa_row(number, split) for number in numbers]
        whole = {"dataset_type": split, "dataset_name": "textvqa", "dataset_version": "0.5.1"}
        write(folder / f"TextVQA_0.5.1_{split}.json", json.dumps(whole | {"data": rows}))
        for number, row in zip(numbers, rows, strict=True):
            write(folder / "train_images" / f"{row['image_id']}.jpg", jpeg(number))
    return folder


def textvqa_parquet(folder: Path) -> Path:
    """The same data as its hub repository holds it."""
    for split, name in (("train", "train"), ("val", "validation")):
        rows = [
            _textvqa_row(n, split) | {"image": cell(n), "ocr_tokens": []} for n in TEXTVQA[split]
        ]
        shard(folder, name, rows)
    return folder


def timeclock(folder: Path) -> Path:
    """time-image-datasetclassification: clocks.csv and a folder per split and time."""
    rows, number = [], 0
    for split, each in (("train", 3), ("test", 1), ("valid", 1)):
        for index, label in enumerate(("1-00", "1-05", "12-55")):
            for image in range(each):
                number += 1
                path = f"{split}/{label}/{image}.jpg"
                write(folder / path, jpeg(number, (224, 224)))
                rows.append([index, path, label, split])
    with (folder / "clocks.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["class index", "filepaths", "labels", "data set"], *rows])
    return folder


def pixmo_count(folder: Path, address: str, train: int = 6, test: int = 3) -> dict[str, bytes]:
    """pixmo-count's shards; what its hosts are to send, by path."""
    served = {}
    for split, numbers in (("train", range(train)), ("test", range(100, 100 + test))):
        rows = []
        for number in numbers:
            data = jpeg(number)
            served[f"/{number}.jpg"] = data
            points = None if split == "test" else {"x": [1.5], "y": [2.0]}
            rows.append(
                {
                    "image_url": f"{address}/{number}.jpg",
                    "image_sha256": hashlib.sha256(data).hexdigest(),
                    "count": number % 9 + 2,
                    "points": points,
                    "label": "people",
                }
            )
        shard(folder, split, rows)
    return served


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
