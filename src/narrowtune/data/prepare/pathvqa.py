"""PathVQA as it lies on the hub: questions about pathology images, yes/no and free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from narrowtune.data.prepare.parquet import Table, hub, image_bytes, shards
from narrowtune.data.prepare.release import Dataset, Item, LeftOut, Rows, Source, chosen

REPOSITORY = "flaviagiammarino/path-vqa"
LAYOUT = "data/{train,test}-00000-of-0000N.parquet with the columns image, question, answer"
FORM = "Answer with yes or no where that is asked, otherwise with a word or a short phrase."


def open_release(source: Source, seed: int) -> Mapping[str, Rows]:
    """The release's training and test split; its validation split is not used.

    Raises:
        InputError: Naming shards or columns that are missing.
    """
    return {split: _rows(source, split) for split in ("train", "test")}


def _rows(source: Source, split: str) -> Rows:
    table = Table(shards(source.folder, split, LAYOUT), ("image", "question", "answer"))

    def items() -> Iterator[Item | LeftOut]:
        for place, row in enumerate(table):
            key = f"pathvqa-{split}-{place:05d}"
            image, question = image_bytes(row["image"]), (row["question"] or "").strip()
            answer = (row["answer"] or "").strip()
            if image is None or not question:
                yield LeftOut(key, "it has no image or no question")
            elif not any(letter.isalnum() for letter in answer):
                yield LeftOut(key, f"its answer {answer!r} holds no word")
            else:
                yield Item(key, image, f"{question}\n{FORM}", (answer,))

    return Rows(table.count, lambda wanted: chosen(items(), wanted))


PATHVQA = Dataset(
    name="pathvqa",
    title="PathVQA (He et al. 2020)",
    homepage=f"https://huggingface.co/datasets/{REPOSITORY}",
    licence="MIT for questions and answers; the images belong to their publishers",
    metric="exact",
    layout=LAYOUT,
    sizes={"train": 19654, "test": 6719},
    fetch=hub(REPOSITORY, ["data/train-*.parquet", "data/test-*.parquet"]),
    open=open_release,
)
