"""Scores of a finished folder by greedy generation, through plain transformers only.

Usage: `python pretraining/score.py src/narrowtune/models/bundled/pico-qwen --count 200`
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from narrowtune.pico import HELD_OUT, TARGETS, Item, draw


class Reader:
    """A model that answers questions about images, loaded from a folder."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.processor = AutoImageProcessor.from_pretrained(folder)
        self.qwen = self.model.config.model_type == "qwen2_5_vl"

    def answer(self, items: list[Item], longest: int = 24) -> list[str]:
        """The greedy answers to a batch of questions."""
        inputs = self.inputs(items)
        with torch.no_grad():
            out = self.model.generate(**inputs, max_new_tokens=longest, do_sample=False)
        new = out[:, inputs["input_ids"].shape[1] :]
        return list(self.tokenizer.batch_decode(new, skip_special_tokens=True))

    def inputs(self, items: list[Item]) -> dict[str, Any]:
        """What the model takes; questions are padded on the left."""
        seen = self.processor([item.image for item in items], return_tensors="pt")
        tokens = 9 if self.qwen else 21
        texts = [self._text(item.question, tokens) for item in items]
        inputs = dict(self.tokenizer(texts, return_tensors="pt", padding=True))
        inputs.pop("token_type_ids", None)
        inputs["pixel_values"] = seen["pixel_values"]
        if self.qwen:
            inputs["image_grid_thw"] = seen["image_grid_thw"]
            image = inputs["input_ids"] == self.model.config.image_token_id
            inputs["mm_token_type_ids"] = image.int()
        else:
            inputs["image_sizes"] = seen["image_sizes"]
        return inputs

    def _text(self, question: str, tokens: int) -> str:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        mark = self.tokenizer.image_token
        return str(text).replace(mark, mark * tokens)


def score(reader: Reader, task: str, count: int, seed: int = 0, batch: int = 50) -> float:
    """Percent of the first `count` test items of a task answered exactly."""
    right = 0
    for start in range(0, count, batch):
        items = [draw(task, "test", i, seed) for i in range(start, min(start + batch, count))]
        answers = reader.answer(items)
        right += sum(a.strip() == i.answer for a, i in zip(answers, items, strict=True))
    return 100 * right / count


def table(folder: Path, count: int) -> dict[str, float]:
    """The score of every task."""
    reader = Reader(folder)
    return {task: score(reader, task, count) for task in (*HELD_OUT, *TARGETS)}


def main() -> None:
    """Prints the scores of a folder as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200)
    chosen = parser.parse_args()
    torch.set_num_threads(2)
    told = table(chosen.folder, chosen.count)
    held = [told[task] for task in HELD_OUT]
    print(json.dumps({"n": chosen.count, "scores": told, "held_out_mean": sum(held) / len(held)}))


if __name__ == "__main__":
    main()
