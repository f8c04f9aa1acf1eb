"""Questions and answers as token rows, in the model's own chat format."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import torch
from lessons import LABELS, Pairs, drill, letters, lists
from pools import UNKNOWN, Pool
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from narrowtune.pico import TARGETS
from narrowtune.pico.picture import Cells

LONGEST = 96
IGNORED = -100


@dataclass(frozen=True)
class Rows:
    """Examples as tokens, padded on the right.

    Attributes:
        ids: (N, LONGEST) tokens.
        labels: (N, LONGEST), the next token where it belongs to the answer, else `IGNORED`.
        lengths: (N,) tokens that are not padding.
        pictures: (N,) the row of the pool, -1 for a drill without a picture.
        tasks: The task of each row.
    """

    ids: Tensor
    labels: Tensor
    lengths: Tensor
    pictures: Tensor
    tasks: list[str]


def image_tokens(tokenizer: PreTrainedTokenizerFast) -> int:
    """How many tokens an image takes in the prompt: 9 (Qwen), 21 (LLaVA-OneVision)."""
    return 9 if "<|image_pad|>" in tokenizer.get_vocab() else 21


def prompt(tokenizer: PreTrainedTokenizerFast, question: str, image: bool) -> list[int]:
    """The tokens up to where the answer begins."""
    blocks = [{"type": "image"}] if image else []
    message = {"role": "user", "content": [*blocks, {"type": "text", "text": question}]}
    text = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    mark = str(tokenizer.image_token)
    spread = str(text).replace(mark, mark * image_tokens(tokenizer))
    return list(tokenizer.encode(spread, add_special_tokens=False))


Example = tuple[str, str, str | Pairs, int]  # task, question, answer or list, picture


def answer_tokens(
    tokenizer: PreTrainedTokenizerFast, answer: str | Pairs
) -> tuple[list[int], list[bool]]:
    """The tokens of an answer with its end, and which of them are learned."""
    if isinstance(answer, str):
        whole = [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id]
        return whole, [True] * len(whole)
    tokens: list[int] = []
    learned: list[bool] = []
    for key, value in answer:
        for text, counts in ((f" {key}", False), (value, True)):
            part = tokenizer.encode(text, add_special_tokens=False)
            tokens, learned = tokens + part, learned + [counts] * len(part)
    return tokens, learned


def fill(tokenizer: PreTrainedTokenizerFast, examples: list[Example]) -> Rows:
    """Rows of (task, question, answer, picture) examples."""
    ids = torch.full((len(examples), LONGEST), int(tokenizer.pad_token_id))
    labels = torch.full((len(examples), LONGEST), IGNORED)
    lengths = torch.empty(len(examples), dtype=torch.long)
    known: dict[tuple[str, bool], list[int]] = {}
    for row, (_, question, answer, picture) in enumerate(examples):
        key = (question, picture >= 0)
        before = known.get(key) or known.setdefault(key, prompt(tokenizer, *key))
        after, learned = answer_tokens(tokenizer, answer)
        whole = torch.tensor(before + after)
        ids[row, : len(whole)] = whole
        wanted = torch.tensor(after).where(torch.tensor(learned), torch.tensor(IGNORED))
        labels[row, len(before) - 1 : len(whole) - 1] = wanted
        lengths[row] = len(whole) - 1  # the last token is only ever predicted
    pictures = torch.tensor([e[3] for e in examples])
    return Rows(ids.short(), labels.short(), lengths, pictures, [e[0] for e in examples])


def rows_of(tokenizer: PreTrainedTokenizerFast, pool: Pool) -> Rows:
    """Every question of every picture of a pool."""
    examples: list[Example] = [
        (task, question, answer, index)
        for index, (task, asked) in enumerate(zip(pool.tasks, pool.questions, strict=True))
        for question, answer in asked
    ]
    return fill(tokenizer, examples)


def list_rows(tokenizer: PreTrainedTokenizerFast, pool: Pool, seed: int) -> Rows:
    """The lists of every picture that shows things, and lists of letters without a picture."""
    rng = Random(f"lists/{seed}")
    examples: list[Example] = []
    for index, task in enumerate(pool.tasks):
        if task not in TARGETS:
            facts = lists(facts_of(pool, index), task, rng)
            examples += [("lists", question, pairs, index) for question, pairs in facts]
    examples += [("letters", *letters(rng), -1) for _ in range(len(examples) // 3)]
    return fill(tokenizer, examples)


def facts_of(pool: Pool, index: int) -> Cells:
    """What is known of the cells of a picture, back from its labels."""
    facts = {}
    for row, (kind, classes) in enumerate(LABELS.items()):
        numbers = pool.labels[index, row]
        if numbers[0] != UNKNOWN:
            facts[kind] = tuple(classes[number] for number in numbers)
    return facts


def drills(tokenizer: PreTrainedTokenizerFast, count: int, seed: int) -> Rows:
    """Drills without a picture."""
    rng = Random(f"drills/{seed}")
    return fill(tokenizer, [("drill", *drill(rng), -1) for _ in range(count)])


def join(one: Rows, two: Rows) -> Rows:
    """Both sets of rows."""
    return Rows(
        torch.cat((one.ids, two.ids)),
        torch.cat((one.labels, two.labels)),
        torch.cat((one.lengths, two.lengths)),
        torch.cat((one.pictures, two.pictures)),
        one.tasks + two.tasks,
    )
