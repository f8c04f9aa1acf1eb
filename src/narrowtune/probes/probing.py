"""All probes of one experiment: prepared once, read on every model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from narrowtune.data.batches import Batches
from narrowtune.data.encoding import Encoded, encode, encode_prompt
from narrowtune.data.example import Example, ImagePart, Message, Part, TextPart
from narrowtune.errors import InputError, Problems
from narrowtune.models.processing import Processing
from narrowtune.probes.classes import TokenClass, answer_class, number_tokens, rule_classes
from narrowtune.probes.layers import Layers
from narrowtune.probes.number_bias import number_bias
from narrowtune.probes.readings import (
    Reading,
    caption_readings,
    moved_readings,
    reference_readings,
)
from narrowtune.probes.reference import Reference

CAPTION = "Describe this image."
CAPTIONS = "captions"
"""The task name of what the model writes itself."""


@dataclass
class Captions:
    """Prompts that the model answers at length, and the tokens that are watched meanwhile."""

    prompts: Batches
    numbers: TokenClass
    max_new_tokens: int


@dataclass
class Probing:
    """Prepared probes; `remember` must see the base before `read` sees anything else.

    Attributes:
        references: A task's texts each, for `kl` and `answer_bias`.
        classes: The answer classes whose probability is added up.
        captions: For `number_bias`; None where it is not asked for.
        processing: Of the model.
        layers: For `layers`; None where it is not asked for.
    """

    references: Sequence[Reference]
    classes: Sequence[TokenClass]
    captions: Captions | None
    processing: Processing
    layers: Layers | None = None
    _remembered: bool = field(default=False, init=False)

    def remember(self, base: nn.Module) -> None:
        """Read the fixed texts with the base, once."""
        if not self._remembered:
            for reference in self.references:
                reference.remember(base)
            if self.layers is not None:
                self.layers.remember(base)
            self._remembered = True

    def read(self, model: nn.Module) -> list[Reading]:
        """What the model has moved by since the base; the base itself has moved by nothing."""
        fixed, own = self._on_fixed_texts(model), self.on_own_texts(model)
        return [*fixed, *self.in_layers(model), *own]

    def to_dict(self) -> dict[str, Any]:
        """What will be read, in numbers; and of the classes, how many tokens each has."""
        return {
            "texts": {
                one.task: len(one.encoded)
                for one in self.references or (self.layers.references if self.layers else ())
            },
            "classes": {one.name: len(one.ids) for one in self.classes},
            "captions": len(self.captions.prompts.encoded) if self.captions else 0,
        }

    def _on_fixed_texts(self, model: nn.Module) -> Iterator[Reading]:
        tokenizer = self.processing.tokenizer
        names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        for reference in self.references:
            found, moved = reference.compare(model, self.classes)
            yield from reference_readings(reference.task, reference.positions, found, self.classes)
            yield from moved_readings(reference.task, moved[: len(names)], names)

    def in_layers(self, model: nn.Module) -> list[Reading]:
        """What `layers` reads, if it is asked for."""
        return self.layers.read(model) if self.layers is not None else []

    def on_own_texts(self, model: nn.Module) -> Iterator[Reading]:
        """What `number_bias` reads, if it is asked for."""
        if self.captions is None:
            return
        asked = self.captions
        if not asked.numbers.ids:
            yield Reading("number_bias", CAPTIONS, "all", reason=asked.numbers.reason)
            return
        written = number_bias(
            model, self.processing, asked.prompts, asked.numbers, asked.max_new_tokens
        )
        yield from caption_readings(CAPTIONS, written)


@dataclass(frozen=True)
class Asked:
    """Which probes, on what.

    Attributes:
        probes: Of `kl`, `answer_bias`, `layers`, `number_bias`.
        texts: Rows of held-out tasks by name, whose right answers are read.
        captions: Prompts that the model answers itself.
        taught: Training rows by skill, whose answers make classes of their own.
        max_new_tokens: The longest caption.
        batch_size: Texts read at once.
    """

    probes: frozenset[str]
    texts: Mapping[str, Sequence[Example]]
    captions: Sequence[Example] = ()
    taught: Mapping[str, Sequence[Encoded]] = field(default_factory=dict)
    max_new_tokens: int = 256
    batch_size: int = 16


def prepare_probing(asked: Asked, processing: Processing) -> Probing:
    """The probes, everything encoded and checked.

    Raises:
        InputError: Texts longer than the model's context, each with its line.
    """
    problems, references, captions = Problems(), [], None
    if asked.probes - {"number_bias"}:
        for task, rows in asked.texts.items():
            with problems.collect(f"task {task}"):
                encoded = _each(rows, lambda row: encode(row, processing))
                references.append(Reference(task, encoded, processing, asked.batch_size))
    if "number_bias" in asked.probes:
        with problems.collect("number_bias"):
            captions = _captions(asked, processing)
    problems.check()
    classes = _classes(asked, processing) if "answer_bias" in asked.probes else ()
    layers = None
    if "layers" in asked.probes:
        pushed = classes or (number_tokens(processing.tokenizer),)
        layers = Layers(references, pushed)
    expected = references if asked.probes & {"kl", "answer_bias"} else []
    return Probing(expected, classes, captions, processing, layers)


def _classes(asked: Asked, processing: Processing) -> tuple[TokenClass, ...]:
    ends = processing.end_token_ids
    taught = [answer_class(skill, rows, ends) for skill, rows in asked.taught.items()]
    return (*rule_classes(processing.tokenizer), *taught)


def _captions(asked: Asked, processing: Processing) -> Captions:
    most, room = processing.max_length, asked.max_new_tokens

    def checked(row: Example) -> Encoded:
        prompt = encode_prompt(row, processing)
        if most is not None and len(prompt) + room > most:
            raise InputError(
                f"{row.source}: a prompt of {len(prompt)} tokens leaves no room for {room} new "
                f"ones within the model's {most} positions; lower the probe's max_new_tokens"
            )
        return prompt

    batches = Batches(_each(asked.captions, checked), processing, asked.batch_size, "left")
    return Captions(batches, number_tokens(processing.tokenizer), room)


def caption_prompts(examples: Sequence[Example], limit: int) -> list[Example]:
    """A request to describe each image; examples without one keep their own prompts."""
    asked = [_describe(row) if row.images else row for row in examples]
    seen: dict[tuple[object, ...], Example] = {}
    for row in asked:
        seen.setdefault((row.images, row.prompt), row)
    return list(seen.values())[:limit]


def _describe(row: Example) -> Example:
    parts: tuple[Part, ...] = (ImagePart(row.images[0]), TextPart(f"\n{CAPTION}"))
    return replace(row, messages=(Message("user", parts), row.messages[-1]))


def _each(rows: Sequence[Example], encoder: Callable[[Example], Encoded]) -> list[Encoded]:
    encoded, problems = [], Problems()
    for row in rows:
        with problems.collect():
            encoded.append(encoder(row))
    problems.check()
    return encoded
