"""Two or more target skills as train and test chats, from folders of public data.

    python prepare_data.py --data FOLDER --out data/skills

FOLDER holds one folder per skill, with the files as their authors publish them:

    svamp/SVAMP.json                     arithmetic word problems        -> 76 - 25 = 51
    gsm8k/train.jsonl, test.jsonl        grade-school mathematics        -> the final number alone
    trec/TREC.train.all, TREC.test.all   what a question asks for        -> one of 6 words
    banking77/train.csv, test.csv        what a bank's customer wants    -> one of 77 phrases
    pubmedqa/ori_pqal.json,              what a study found              -> yes, no or maybe
             test_ground_truth.json

SVAMP comes as one file: 300 rows drawn by the seed are its test. All other splits are the authors'.
PubMedQA's skill `pubmedqa` asks about the abstract as published, without its conclusion;
`pubmedqa-results` about its section of results alone, a third as long.
A question that stands in both halves of a split is taken out of the training half.

With --bare the training half does not say how to answer ("Answer with ..."); the test half does.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rows import Row, chat, subsample, write

from narrowtune.data.overlap import plain_words

SVAMP_TEST = 300
TREC_WORDS = ("description", "entity", "abbreviation", "person", "place", "number")
SVAMP_HINT = "Answer with the calculation, as in 2 + 3 = 5."
NUMBER_HINT = "Answer with a number only."
TREC_HINT = f"Answer with one word: {', '.join(TREC_WORDS[:-1])} or {TREC_WORDS[-1]}."
PUBMED_HINT = "Answer with one word: yes, no or maybe."
BANKING_HINT = "Which kind of request to the bank is this? Answer with its name."


class Split(NamedTuple):
    """One skill: rows to learn from and rows to be scored on."""

    train: list[Row]
    test: list[Row]


def svamp_row(item: dict[str, Any]) -> Row:
    """One SVAMP problem, answered by its calculation; the body lacks the full stop."""
    body = item["Body"].strip()
    body = body if body.endswith((".", "?", "!", ",")) else body + "."
    answer = f"{calculation(item['Equation'])} = {plain(float(item['Answer']))}"
    return chat(item["ID"], f"{body} {item['Question'].strip()}\n{SVAMP_HINT}", answer)


def calculation(equation: str) -> str:
    """SVAMP's `( ( 8.0 + 3.0 ) - 4.0 )` as it would be written by hand: `(8 + 3) - 4`."""
    text = re.sub(r"\d+(?:\.\d+)?", lambda number: plain(float(number[0])), equation.strip())
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1].strip()
    return text.replace("( ", "(").replace(" )", ")")


def plain(value: float) -> str:
    """The number without a trailing `.0`."""
    return str(int(value)) if value.is_integer() else str(value)


def gsm8k_row(identity: str, item: dict[str, str]) -> Row:
    """One GSM8K problem with the number after `####` alone, the worked solution left out."""
    _, mark, final = item["answer"].rpartition("####")
    if not mark:
        raise ValueError(f"{identity}: no '####' before the final number")
    answer = final.strip().replace(",", "")
    return chat(identity, f"{item['question'].strip()}\n{NUMBER_HINT}", answer)


def trec_row(identity: str, line: str) -> Row:
    """One TREC question; the line's first field is its class, 0 to 5."""
    label, _, question = line.strip().partition(" ")
    if label not in {"0", "1", "2", "3", "4", "5"}:
        raise ValueError(f"{identity}: the class is {label!r}, not 0 to 5")
    return chat(identity, f"{question}\n{TREC_HINT}", TREC_WORDS[int(label)])


def banking_row(identity: str, item: dict[str, str]) -> Row:
    """One Banking77 message; underscores of the category become spaces."""
    answer = item["category"].strip().replace("_", " ").lower()
    return chat(identity, f"{item['text'].strip()}\n{BANKING_HINT}", answer)


def pubmed_row(identity: str, item: dict[str, Any], section: str = "") -> Row:
    """One PubMedQA question on its abstract, or on the abstract's sections of that label.

    Without such a section it is the last one, which comes nearest to the conclusion.
    """
    given = list(zip(item["LABELS"], item["CONTEXTS"], strict=True))
    found = [text for label, text in given if section in label.upper()] or [given[-1][1]]
    prompt = f"{' '.join(found)}\n\n{item['QUESTION'].strip()}\n{PUBMED_HINT}"
    return chat(identity, prompt, item["final_decision"])


def read_pubmed(folder: Path, seed: int, section: str = "") -> Split:
    items = json.loads((folder / "ori_pqal.json").read_text(encoding="utf-8"))
    tested = json.loads((folder / "test_ground_truth.json").read_text(encoding="utf-8"))
    rows = {name: pubmed_row(f"pubmedqa-{name}", item, section) for name, item in items.items()}
    train = [row for name, row in rows.items() if name not in tested]
    return Split(train, subsample([rows[name] for name in tested], None, seed))


def read_svamp(folder: Path, seed: int) -> Split:
    items = json.loads((folder / "SVAMP.json").read_text(encoding="utf-8"))
    rows = subsample([svamp_row(item) for item in items], None, seed)
    return Split(train=rows[SVAMP_TEST:], test=rows[:SVAMP_TEST])


def read_gsm8k(folder: Path, seed: int) -> Split:
    def rows(name: str) -> Iterator[Row]:
        with open(folder / f"{name}.jsonl", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                yield gsm8k_row(f"gsm8k-{name}-{number}", json.loads(line))

    return Split(list(rows("train")), subsample(list(rows("test")), None, seed))


def read_trec(folder: Path, seed: int) -> Split:
    def rows(name: str) -> Iterator[Row]:
        with open(folder / f"TREC.{name}.all", encoding="latin-1") as lines:
            for number, line in enumerate(lines, start=1):
                yield trec_row(f"trec-{name}-{number}", line)

    return Split(list(rows("train")), subsample(list(rows("test")), None, seed))


def read_banking(folder: Path, seed: int) -> Split:
    def rows(name: str) -> Iterator[Row]:
        with open(folder / f"{name}.csv", encoding="utf-8", newline="") as lines:
            for number, item in enumerate(csv.DictReader(lines), start=1):
                yield banking_row(f"banking77-{name}-{number}", item)

    return Split(list(rows("train")), subsample(list(rows("test")), None, seed))


SKILLS: dict[str, Callable[[Path, int], Split]] = {
    "svamp": read_svamp,
    "gsm8k": read_gsm8k,
    "trec": read_trec,
    "banking77": read_banking,
    "pubmedqa": read_pubmed,
    "pubmedqa-results": partial(read_pubmed, section="RESULT"),
}
FOLDERS = {"pubmedqa-results": "pubmedqa"}


def without(rows: Iterable[Row], test: Iterable[Row]) -> list[Row]:
    """The rows whose question is not among the test's, as narrowtune compares them."""
    asked = {_question(row) for row in test}
    return [row for row in rows if _question(row) not in asked]


def bare(row: Row) -> Row:
    """The row without the sentence that says how to answer, which ends its prompt."""
    prompt, answer = row["messages"]
    text = re.sub(r"\s*\bAnswer with [^\n]*$", "", prompt["content"])
    return row | {"messages": [prompt | {"content": text}, answer]}


def _question(row: Row) -> str:
    return plain_words(row["messages"][0]["content"])


def main() -> None:
    arguments = _parse()
    folders = {name: arguments.data / FOLDERS.get(name, name) for name in arguments.skills}
    missing = [folder.name for folder in folders.values() if not folder.is_dir()]
    if missing:
        raise SystemExit(f"{arguments.data} has no folder {', '.join(missing)} (see --help)")
    for name, folder in folders.items():
        try:
            split = SKILLS[name](folder, arguments.seed)
        except (OSError, ValueError, KeyError) as error:
            raise SystemExit(f"{name}: {type(error).__name__}: {error}") from error
        taught = without(split.train, split.test)
        taught = [bare(row) for row in taught] if arguments.bare else taught
        write(taught, arguments.out / name / "train.jsonl")
        write(split.test, arguments.out / name / "test.jsonl")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--skills", nargs="+", choices=SKILLS, default=["svamp", "trec"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bare", action="store_true", help="train without 'Answer with ...'")
    return parser.parse_args()


if __name__ == "__main__":
    main()
