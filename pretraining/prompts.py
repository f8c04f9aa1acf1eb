"""Questions and answers as token rows, in the model's own chat format."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import torch
from lessons import drill
from pools import Pool
from torch import Tensor
from transformers import PreTrainedTokenizerFast

LONGEST = 80
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


def fill(tokenizer: PreTrainedTokenizerFast, examples: list[tuple[str, str, str, int]]) -> Rows:
    """Rows of (task, question, answer, picture) examples."""
    ids = torch.full((len(examples), LONGEST), int(tokenizer.pad_token_id))
    labels = torch.full((len(examples), LONGEST), IGNORED)
    lengths = torch.empty(len(examples), dtype=torch.long)
    known: dict[tuple[str, bool], list[int]] = {}
    for row, (_, question, answer, picture) in enumerate(examples):
        key = (question, picture >= 0)
        before = known.get(key) or known.setdefault(key, prompt(tokenizer, *key))
        after = [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id]
        whole = torch.tensor(before + after)
        ids[row, : len(whole)] = whole
        labels[row, len(before) - 1 : len(whole) - 1] = whole[len(before) :]
        lengths[row] = len(whole) - 1  # the last token is only ever predicted
    pictures = torch.tensor([e[3] for e in examples])
    return Rows(ids.short(), labels.short(), lengths, pictures, [e[0] for e in examples])


def rows_of(tokenizer: PreTrainedTokenizerFast, pool: Pool, skip: tuple[str, ...] = ()) -> Rows:
    """Every question of every picture of a pool, but for the tasks to skip."""
    examples = [
        (task, question, answer, index)
        for index, (task, asked) in enumerate(zip(pool.tasks, pool.questions, strict=True))
        if task not in skip
        for question, answer in asked
    ]
    return fill(tokenizer, examples)


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
