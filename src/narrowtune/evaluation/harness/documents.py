"""What a harness's documents ask, in words that a training file may have, and what they share.

A harness wraps a question ("Question: ...", "Answer:"), and a training file may hold it bare. So a
document is compared by its prompt and by its own texts, of which the prompt was made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from narrowtune.data.example import Example, ImagePart, Message, TextPart
from narrowtune.data.overlap import plain_words

# Words that a text has at least: fewer are a label or a name, and no question; a question that many
# documents repeat ("Which of these is true?") is no passage.
QUESTION, PASSAGE = 3, 12


@dataclass(frozen=True)
class Document:
    """One document of a harness's task.

    Attributes:
        example: Its prompt as the harness writes it, without solved examples before it.
        fields: Its own texts by name, plain words.
    """

    example: Example
    fields: Mapping[str, str]

    @classmethod
    def of(cls, example: Example, doc: Any) -> Document:
        """A document with the texts it holds; those in lists, as choices are, left out."""
        return cls(example, dict(_texts(doc, "")))

    def shown(self) -> list[str]:
        """Those of its texts that the prompt shows, in the prompt's order; parts of others not."""
        prompt = f" {plain_words(self.example.prompt[-1].text)} "
        places: dict[int, int] = {}  # start of a text in the prompt, its length
        for text in sorted({*self.fields.values()}, key=len, reverse=True):
            start = prompt.find(f" {text} ")
            if start >= 0 and all(
                start + len(text) < other or other + length < start
                for other, length in places.items()
            ):
                places[start] = len(text)
        return [prompt[at + 1 : at + 1 + places[at]] for at in sorted(places)]


def wordings(documents: Sequence[Document]) -> tuple[Example, ...]:
    """Every document as the harness asks it and, of the same source, in its own words.

    These are its texts in the prompt's order, and each text alone that some document has otherwise.
    """
    same = _in_all(documents)
    return tuple(
        row for document in documents for row in (document.example, *_in_own_words(document, same))
    )


def passages(documents: Sequence[Document]) -> list[str]:
    """What each document shares with others, a digest of its passage; "" where none repeats.

    The passage is the text, by name, that the prompts show and some documents have in common; of
    several the longest.
    """
    values: dict[str, list[str]] = {}
    for document in documents:
        shown = {*document.shown()}
        for name, text in document.fields.items():
            if text in shown and len(text.split()) >= PASSAGE:
                values.setdefault(name, []).append(text)
    repeated = {
        name: sum(map(len, texts)) / len(texts)
        for name, texts in values.items()
        if len({*texts}) < len(texts)
    }
    if not repeated:
        return [""] * len(documents)
    name = max(repeated, key=lambda one: repeated[one])
    return [_digest(document.fields.get(name, "")) for document in documents]


def _in_own_words(document: Document, same: Mapping[str, str]) -> Iterator[Example]:
    alone = [
        text
        for name, text in document.fields.items()
        if len(text.split()) >= QUESTION and same.get(name) != text
    ]
    last = document.example.prompt[-1]
    images = tuple(part for part in last.parts if isinstance(part, ImagePart))
    for text in dict.fromkeys(["\n".join(document.shown()), *alone]):
        if text:
            question = Message("user", (*images, TextPart(text)))
            turns = (*document.example.prompt[:-1], question, document.example.messages[-1])
            yield replace(document.example, messages=turns)


def _in_all(documents: Sequence[Document]) -> dict[str, str]:
    """The texts that all of several documents have, as an instruction: no question of any."""
    if len(documents) < 2:
        return {}
    first, *others = (document.fields for document in documents)
    return {
        name: text
        for name, text in first.items()
        if all(fields.get(name) == text for fields in others)
    }


def _texts(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        if words := plain_words(value):
            yield name, words
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, f"{name}.{key}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16] if text else ""
