"""Stand-ins for what the real-parts example fetches: the same layout, next to nothing in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

NAMES = ["cat", "dog", "wolf", "fox", "apple", "pear", "plum", "lemon"]


def language(folder: Path) -> None:
    """A byte-level Llama with SmolLM2's marks."""
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = Tokenizer(
        models.BPE({t: i for i, t in enumerate([*marks, *pre_tokenizers.ByteLevel.alphabet()])}, [])
    )
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=letters, eos_token=marks[2], pad_token=marks[2], bos_token=marks[1]
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [marks[0]]})
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def emoji(folder: Path, vendors: Sequence[str]) -> None:
    """Eight emoji that all vendors draw, and three that the example leaves out."""
    drawn = {f"has_img_{vendor}": True for vendor in vendors}
    rows = []
    for number, name in enumerate(NAMES):
        kind = ("Animals & Nature", "animal-mammal") if number < 4 else ("Food & Drink", "fruit")
        row = {"name": name.upper(), "category": kind[0], "subcategory": kind[1]}
        rows.append(row | drawn | {"image": f"{number:04x}.png"})
    flags = {"category": "Flags", "subcategory": "country-flag", "image": "f.png"}
    rows.append({"name": "Egypt Flag"} | flags | drawn)
    rows.append(rows[0] | {"name": "LYNX", "image": "l.png", "has_img_google": False})
    rows.append(rows[0] | {"name": "A CAT OF MANY WORDS", "image": "m.png"})
    folder.mkdir()
    (folder / "emoji.json").write_text(json.dumps(rows))
    for vendor in vendors:
        (folder / vendor).mkdir()
        for number in range(len(NAMES)):
            drawing = Image.new("RGBA", (64, 64))  # transparent black
            shade = (25 * number, 255 - 25 * number, 10 * len(vendor), 255)
            drawing.paste(shade, (8, 8, 40 + number, 40))
            drawing.save(folder / vendor / f"{number:04x}.png")


def cifar(folder: Path) -> None:
    """Eight training photographs on two sheets, four for the test."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for name in ("data_batch_1", "data_batch_2", "test_batch"):
        Image.fromarray(draw.integers(0, 255, (4, 1024, 3), dtype=np.uint8)).save(
            folder / f"{name}.png"
        )
    (folder / "train_lables.json").write_text(json.dumps([3, 5, 0, 9, 1, 1, 2, 2]))
    (folder / "test_lables.json").write_text(json.dumps([8, 7, 6, 5]))


def public(folder: Path) -> None:
    """BCCD, NLVR and TabMWP as released, in miniature."""
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / "bccd" / name).mkdir(parents=True)
    for number, (name, split) in enumerate((("B0", "trainval"), ("B1", "test"))):
        kinds = ["WBC", *["RBC"] * (3 + number), "Platelets"]
        boxes = "".join(f"<object><name>{kind}</name></object>" for kind in kinds)
        (folder / f"bccd/Annotations/{name}.xml").write_text(f"<annotation>{boxes}</annotation>")
        (folder / f"bccd/ImageSets/Main/{split}.txt").write_text(f"{name}\n")
        Image.new("RGB", (64, 48), (200, 9 * number, 9)).save(
            folder / f"bccd/JPEGImages/{name}.jpg"
        )
    (folder / "nlvr" / "images").mkdir(parents=True)
    items = []
    for number in range(10):
        sentence, identity = f"There are {number // 2} blocks", f"{number // 2}-{number % 2}"
        label = ("true", "false")[number % 2]
        items.append({"sentence": sentence, "label": label, "identifier": identity})
        # All sentences' first scenes look the same: in training, none of those may stay.
        shade = 50 if number % 2 == 0 else 5 * number
        Image.new("RGB", (40, 10), (shade, 0, 0)).save(folder / f"nlvr/images/dev-{identity}-0.png")
    (folder / "nlvr" / "dev.json").write_text("\n".join(map(json.dumps, items)))
    (folder / "tabmwp" / "tables").mkdir(parents=True)
    asked = {"question": "Linear?", "choices": ["yes", "no"], "answer": "no"}
    open_question = {"question": "How many?", "choices": None, "answer": "4"}
    for name, number in (("dev1k", "33"), ("test1k", "16")):
        problems = {number: asked, f"{number}0": open_question}
        (folder / f"tabmwp/problems_{name}.json").write_text(json.dumps(problems))
        Image.new("RGB", (30, 20), "white").save(folder / f"tabmwp/tables/{number}.png")
