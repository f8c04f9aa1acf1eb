"""Models of real families, batches made with a feed or with pixels, and what comes of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Qwen3VLConfig

sys.path.append(str(Path(__file__).parents[1] / "data"))
import tiny_processors as tiny

from narrowtune.data.batching import collate, pixels
from narrowtune.data.encoding import Encoded, encode
from narrowtune.data.example import Example, ImagePart, Message, TextPart
from narrowtune.data.images import file_digest
from narrowtune.models.feature_trial import try_features
from narrowtune.models.features import Feed, Layout, encoder_of, upstream
from narrowtune.models.processing import Processing
from narrowtune.models.supervised import predicting, supervised_logits


class Eyes:
    """Sees the pixels of files, and counts how often."""

    def __init__(self, processing: Processing) -> None:
        self.processing, self.seen = processing, 0

    def digest(self, path: Path) -> bytes:
        return file_digest(path)

    def pixels(self, groups: Sequence[Sequence[Path]]) -> dict[str, Tensor]:
        self.seen += 1
        return pixels(groups, self.processing)


def deepstack(folder: Path) -> Path:
    """A Qwen3-VL, whose image features enter at three layers."""
    tokenizer = tiny.make_tokenizer(tiny.QWEN_VL)
    vision = {"depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2}
    vision |= {"out_hidden_size": 32, "deepstack_visual_indexes": [0, 1], "patch_size": 14}
    vision |= {"num_position_embeddings": 64}
    text = tiny._qwen_text(tokenizer) | {"head_dim": 8, "num_hidden_layers": 3}
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **tiny._qwen_tokens(tokenizer))
    tokenizer.save_pretrained(folder)
    config.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(tiny.QWEN_IMAGES))
    (folder / "processor_config.json").write_text(
        json.dumps({"processor_class": "Qwen3VLProcessor"})
    )
    return folder


def rows_of(processing: Processing, groups: Sequence[Sequence[Path]]) -> list[Encoded]:
    """A question about each group of images, and its answer."""
    return [
        encode(
            Example(
                str(number),
                (
                    Message("user", (*map(ImagePart, group), TextPart(f"What is {number}?"))),
                    Message("assistant", (TextPart(f"The answer is {number}."),)),
                ),
                f"row {number}",
                ("",),
            ),
            processing,
        )
        for number, group in enumerate(groups)
    ]


def batch_for(rows: Sequence[Encoded], processing: Processing, feed: Feed | None) -> Any:
    processing.feed = feed
    try:
        return collate(rows, processing, padding_side="left")
    finally:
        processing.feed = None


def tried(model: nn.Module, processing: Processing, rows: Sequence[Encoded]) -> Layout:
    def make(feed: Feed | None) -> Mapping[str, Tensor]:
        return batch_for(rows, processing, feed).inputs

    groups = [row.example.images for row in rows]
    return try_features(model, groups, make, Eyes(processing))


def feed_of(
    model: nn.Module, processing: Processing, layout: Layout, store: Any, alone: bool = False
) -> Feed:
    encoder = encoder_of(model)
    assert encoder is not None
    return Feed(encoder, layout, Eyes(processing), store, "model", alone)


@contextmanager
def counted(model: nn.Module) -> Any:
    """Counts how often the first of the image encoder's modules runs."""
    module = encoder_of(model).module
    tower = next(child for name, child in module.named_children() if name.startswith("vis"))
    calls: list[int] = []
    handle = tower.register_forward_hook(lambda *_: calls.append(1))
    yield calls
    handle.remove()


def learned(model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch and its gradients in the language model."""
    frozen = set(map(id, upstream_of(model).values()))
    for parameter in model.parameters():
        parameter.requires_grad = id(parameter) not in frozen
    model.zero_grad()
    model.train()
    logits = supervised_logits(model, batch.inputs, predicting(batch.supervised))
    loss = cross_entropy(logits, batch.inputs["input_ids"][batch.supervised], reduction="sum")
    loss.backward()
    model.eval()
    return loss.detach(), {
        name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None
    }


def upstream_of(model: nn.Module) -> dict[str, Tensor]:
    encoder = encoder_of(model)
    towers = ("visual", "vision_tower", "multi_modal_projector", "image_newline")
    return upstream(encoder, Layout(object, (), frozenset(towers)))


def alike(one: tuple[Tensor, dict[str, Tensor]], other: tuple[Tensor, dict[str, Tensor]]) -> bool:
    same = one[1].keys() == other[1].keys() and len(one[1]) > 0
    return (
        same
        and torch.equal(one[0], other[0])
        and all(torch.equal(one[1][name], other[1][name]) for name in one[1])
    )


def answered(module: nn.Module, change: Callable[[Any], Any]) -> None:
    """Lets the module's image features pass through `change`."""
    ask = module.get_image_features

    @wraps(ask)
    def answer(*args: Any, **kwargs: Any) -> Any:
        return change(ask(*args, **kwargs))

    module.get_image_features = answer


def seen_features(model: nn.Module, batch: Any) -> list[Tensor]:
    """All image features that a forward pass gets, one tensor per level: [tokens, size]."""
    module, said = encoder_of(model).module, []
    before = dict(vars(module))

    def note(output: Any) -> Any:
        said.append(output)
        return output

    answered(module, note)
    with torch.no_grad():
        model(**batch.inputs)
    del module.get_image_features
    vars(module).update(before)
    levels = [said[0].pooler_output, *(getattr(said[0], "deepstack_features", None) or ())]
    return [level if isinstance(level, Tensor) else torch.cat(list(level)) for level in levels]
