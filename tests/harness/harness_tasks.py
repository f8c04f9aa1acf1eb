"""Task files in the harnesses' own formats, over data drawn here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

WORDS = ("one", "two", "three", "four", "a large number", "none at all")

MULTIPLE_CHOICE = """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: gold
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
metadata: {version: 1.5}
"""
OPEN = """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[gold]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 5}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
metadata: {version: 2.0}
"""
PERPLEXITY = """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list:
  - {metric: word_perplexity}
"""
UTILS = """
from PIL import Image


def pictures(doc):
    return [Image.open(doc["image"]).convert("RGB")]


def question(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]


def judge(doc, results):
    right = float(results[0].lower() == doc["choices"][doc["gold"]])
    return {"right": {"score": right}, "spread": {"score": right}}


def mean(rows):
    return sum(row["score"] for row in rows) / len(rows)


def most(rows):
    return max(row["score"] for row in rows) + 1


def one_picture(doc):
    return [Image.new("RGB", (84, 84), "red")]


def judge_half(doc, results):
    right = float(results[0].strip().lower() == doc["choices"][doc["gold"]])
    return {"halves": {"half": int(doc["question"].split()[-1]) >= 6, "score": right}}


def mean_of_halves(rows):
    halves = [[row["score"] for row in rows if row["half"] == half] for half in (False, True)]
    return sum(sum(half) / len(half) for half in halves if half) / sum(map(bool, halves))
"""
SHARED = "doc_to_visual: !function utils.one_picture\ndoc_to_text: !function utils.question\n"
HALVES = """
output_type: generate_until
doc_to_target: "{{choices[gold]}}"
process_results: !function utils.judge_half
generation_kwargs: {max_new_tokens: 5, temperature: 0, do_sample: false}
metric_list:
  - {metric: halves, aggregation: !function utils.mean_of_halves, higher_is_better: true}
"""
SHOWN = "doc_to_visual: !function utils.pictures\ndoc_to_text: !function utils.question\n"
VQA = """
output_type: generate_until
doc_to_target: "{{choices[gold]}}"
generation_kwargs: {max_new_tokens: 5, temperature: 0, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
metadata: [{version: 0.5}]
"""
OWN_JUDGE = """
output_type: generate_until
doc_to_target: "{{choices[gold]}}"
process_results: !function utils.judge
generation_kwargs: {max_new_tokens: 5, temperature: 0, do_sample: false}
metric_list:
  - {metric: spread, aggregation: !function utils.most, higher_is_better: true}
  - {metric: right, aggregation: !function utils.mean, higher_is_better: true}
"""


def rows(count: int, end: str = "") -> list[dict[str, Any]]:
    """Questions of different lengths with three choices each, of different lengths too."""
    return [
        {
            "question": f"{'What is shown here? ' * (number % 4)}How many circles? {number}{end}",
            "choices": [WORDS[(number + shift) % len(WORDS)] for shift in range(3)],
            "gold": number % 3,
        }
        for number in range(count)
    ]


def write_rows(folder: Path, name: str, given: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(map(json.dumps, given)))
    return path


def write_task(folder: Path, name: str, body: str, data: Path, more: str = "") -> None:
    """A task file over a local data file, which is its training split too."""
    files = f"{{data_files: {{test: {data}, train: {data}}}}}"
    (folder / f"{name}.yaml").write_text(
        f"task: {name}\ndataset_path: json\ndataset_kwargs: {files}\ntest_split: test\n"
        f"training_split: train\n{more}{body}"
    )


def write_lm_eval(folder: Path, count: int = 12) -> Path:
    """A folder of lm-eval tasks: own_choice, own_open, own_text and a group of two."""
    data = write_rows(folder, "questions", rows(count))
    blank = write_rows(folder, "blank", rows(count, end=" "))
    write_task(folder, "own_choice", MULTIPLE_CHOICE, data)
    write_task(folder, "own_blank", MULTIPLE_CHOICE, blank, 'target_delimiter: ""\n')
    write_task(folder, "own_open", OPEN, data)
    write_task(folder, "own_text", PERPLEXITY, data)
    for rule, name in (("true", "own_pair"), ("false", "own_even_pair")):
        (folder / f"{name}.yaml").write_text(
            f"group: {name}\ntask: [own_choice, own_blank]\naggregate_metric_list:\n"
            f"  - {{metric: acc, weight_by_size: {rule}}}\n"
        )
    return folder


def write_lmms_eval(folder: Path, count: int = 8) -> Path:
    """A folder of lmms-eval tasks with pictures: see_open, see_own and others."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = rows(count)
    for number, row in enumerate(shown):
        path = folder / f"{number}.png"
        size = (84, 84) if number % 2 else (120, 60)
        Image.linear_gradient("L").resize(size).rotate(31 * number).convert("RGB").save(path)
        row["image"] = str(path)
    data = write_rows(folder, "shown", shown)
    (folder / "utils.py").write_text(UTILS)
    write_task(folder, "see_open", VQA, data, SHOWN)
    write_task(folder, "see_own", OWN_JUDGE, data, SHOWN)
    write_task(folder, "see_choice", MULTIPLE_CHOICE, data, SHOWN)
    write_task(folder, "see_one", VQA, data, SHARED)
    write_task(folder, "see_halves", HALVES, data, SHOWN)
    return folder
