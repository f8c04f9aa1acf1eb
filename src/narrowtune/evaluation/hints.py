"""Prompts that tell a model how a task is answered: by an instruction, or by worked examples."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from narrowtune.data.example import Example, Message, Part, TextPart

FEW = 8
"""A task of at most so many different answers is told all of them."""

BY_METRIC = {
    "number": "Answer with a number.",
    "relaxed": "Answer with a number or a short phrase.",
    "option": "Answer with the letter of the right option.",
    "yes_no": "Answer yes or no.",
    "clock": "Answer with a time, as in 4:05.",
}


def answer_space(examples: Sequence[Example]) -> tuple[str, ...]:
    """Every answer that is right somewhere in a task, in order of appearance."""
    return tuple(dict.fromkeys(answer for row in examples for answer in row.references))


def format_instruction(metric: str, examples: Sequence[Example]) -> str:
    """One sentence that tells in which form a task is answered."""
    if metric in BY_METRIC:
        return BY_METRIC[metric]
    answers = answer_space(examples)
    if len(answers) <= FEW:
        return f"Answer with one of: {', '.join(answers)}."
    return f"Answer with a word or a short phrase, such as: {', '.join(answers[:3])}."


def with_instruction(example: Example, instruction: str) -> Example:
    """The example with a line added to the last thing the user says."""
    *before, asked, answer = example.messages
    line: Part = TextPart(f"\n{instruction}")
    return replace(example, messages=(*before, Message(asked.role, (*asked.parts, line)), answer))


def with_examples(example: Example, shown: Sequence[Example]) -> Example:
    """The example behind worked ones, each with its answer, after any system turn of its own."""
    system = tuple(turn for turn in example.messages if turn.role == "system")
    asked = tuple(turn for turn in example.messages if turn.role != "system")
    worked = tuple(turn for one in shown for turn in one.messages if turn.role != "system")
    return replace(example, messages=(*system, *worked, *asked))


def worked_examples(examples: Sequence[Example], count: int = 2) -> tuple[Example, ...]:
    """The first examples of different answers; of the same where there are no others."""
    by_answer: dict[str, Example] = {}
    for row in examples:
        by_answer.setdefault(row.references[0], row)
    chosen = list(by_answer.values())[:count]
    return tuple([*chosen, *(row for row in examples if row not in chosen)][:count])


def split_clusters(
    ids: Sequence[str], clusters: Sequence[str], first: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Places of about `first` samples, and of all others.

    Samples of one cluster stay together, and at most half of the clusters go into the first part.
    Which ones is drawn by a hash of their names: the order of the file, which may go through its
    classes in turn, makes no difference, and every machine draws the same.

    Args:
        ids: Of the samples; they differ.
        clusters: What each sample shares with others; empty where it shares nothing.
        first: How many samples the first part is to have.
    """
    groups: dict[str, list[int]] = {}
    for place, (name, cluster) in enumerate(zip(ids, clusters, strict=True)):
        groups.setdefault(f"cluster {cluster}" if cluster else f"sample {name}", []).append(place)
    wanted = min(max(round(first * len(groups) / max(len(ids), 1)), 1), len(groups) // 2)
    drawn = sorted(groups, key=lambda group: hashlib.sha256(group.encode()).digest())
    chosen = {place for group in drawn[:wanted] for place in groups[group]}
    parts: tuple[list[int], list[int]] = ([], [])
    for place in range(len(ids)):
        parts[place not in chosen].append(place)
    return tuple(parts[0]), tuple(parts[1])
