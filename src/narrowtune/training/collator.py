"""Packed batches as a `data_collator` of transformers' Trainer or TRL's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from narrowtune.data.encoding import Encoded
from narrowtune.data.example import Example, ImagePart, Message
from narrowtune.data.model_side import ModelSide
from narrowtune.data.sharing import Limits, groups
from narrowtune.errors import InputError
from narrowtune.training.packing import Packing

IGNORED = -100  # the label of what is not taught, in transformers
# What a row of token ids may hold beside them and not be misread.
_KNOWN = {"input_ids", "attention_mask", "labels", "completion_mask", "images", "length"}


class PackingCollator:
    """Makes a trainer's batches of samples that share their images' passage through the model.

    Taught tokens stand directly behind those that predict them, so the labels are plain ones, as
    every model's loss and every trainer's count of tokens takes them.

    An item of the trainer's data set is one of

    - an `Encoded` (`nt`'s `encode_all`), with images or without;
    - a list of them that belong together, as `together` gives: a trainer that shuffles its items
      then shuffles images;
    - a row of token ids: `input_ids`, and `labels` or a `completion_mask` where not all is taught;
      `images`, a list of paths, whose placeholders are as many as their tokens.

    The model is asked for positions where the batch is made: leave `dataloader_num_workers` at 0.
    Train while the model is `attending_by_segments` (`narrowtune.models.packed`): then a batch is
    one sequence without padding, and no attention is computed across samples. Otherwise it has a
    mask over each of its sequences, which are filled up to the longest sample.

    Args:
        model: The model that is trained, as it is or in an adapter.
        processing: Its processing (`narrowtune.models.processing.load_processing`).
        limits: What may lie in one sequence.

    Raises:
        InputError: The model cannot read several samples in one sequence.
    """

    def __init__(
        self, model: nn.Module, processing: ModelSide, limits: Limits | None = None
    ) -> None:
        self._packing = Packing(model, processing, limits)

    def __call__(self, items: Sequence[Any]) -> dict[str, Tensor]:
        """Keyword arguments of the model's forward, labels among them.

        Raises:
            InputError: An item is none of the three kinds, or cannot be packed.
        """
        batch = self._packing(list(_samples(items)))
        labels = batch.inputs["input_ids"].masked_fill(~batch.supervised, IGNORED)
        return {**batch.inputs, "labels": labels}


def together(
    samples: Sequence[Encoded], image_token: int | None, most: int | None = None
) -> list[list[Encoded]]:
    """The samples in lists of those whose images it pays to pass once, in order of the first.

    Args:
        samples: All of a data set.
        image_token: The placeholder's token id; None for a text model.
        most: Samples of a list; longer ones are cut. None leaves them whole.
    """
    lists: dict[int, list[Encoded]] = {}
    for sample, group in zip(samples, groups(samples, image_token), strict=True):
        lists.setdefault(group, []).append(sample)
    return [
        whole[start : start + (most or len(whole))]
        for whole in lists.values()
        for start in range(0, len(whole), most or len(whole))
    ]


def _samples(items: Sequence[Any]) -> Iterator[Encoded]:
    for item in items:
        if isinstance(item, Encoded):
            yield item
        elif isinstance(item, list):
            yield from _samples(item)
        elif isinstance(item, Mapping):
            yield _of_tokens(item)
        else:
            raise InputError(
                f"a packed batch is made of Encoded samples, lists of them, or rows with input_ids;"
                f" got a {type(item).__name__}"
            )


def _of_tokens(row: Mapping[str, Any]) -> Encoded:
    """A row of token ids as a sample; its first token, which nothing predicts, is not taught."""
    if "input_ids" not in row or set(row) - _KNOWN:
        found = ", ".join(sorted(row))
        raise InputError(
            "a row to pack has input_ids, and labels, completion_mask, images (paths) beside them;"
            f" this one has {found}"
        )
    ids = tuple(map(int, row["input_ids"]))
    labels = row.get("labels", ids)
    marked = row.get("completion_mask", [1] * len(ids))
    if not len(ids) == len(labels) == len(marked):
        raise InputError("a row's input_ids, labels and completion_mask differ in length")
    taught = [
        place > 0 and int(label) != IGNORED and bool(mark)
        for place, (label, mark) in enumerate(zip(labels, marked, strict=True))
    ]
    if any(mark and int(labels[n]) != ids[n] for n, mark in enumerate(taught)):
        raise InputError("a row's labels are other tokens than its input_ids; they must be equal")
    shown = Message("user", tuple(ImagePart(Path(path)) for path in row.get("images", ())))
    return Encoded(Example("", (shown,), "a row of token ids", ("",)), ids, tuple(taught), 0)
