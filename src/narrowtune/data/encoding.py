"""Examples as tokens, each marked as taught or not.

Taught is what the model has to say itself: every answer's words and the token that ends it.
Nothing of a prompt is, no role header, no image token, no line break after the end token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, TypeVar, cast

from narrowtune.data.collector import collector_paused
from narrowtune.data.compact import MARKS, NUMBERS, compact, stored
from narrowtune.data.example import Example
from narrowtune.data.formats import shorten
from narrowtune.data.images import image_size
from narrowtune.data.layout import Layout, Layouts, Span
from narrowtune.data.model_side import ModelSide, Tokens
from narrowtune.errors import InputError

TOGETHER = 256  # texts given to the tokenizer at once: its cores are fed, and few are held

T = TypeVar("T")


@compact(input_ids=NUMBERS, supervised=MARKS)
@dataclass(frozen=True)
class Encoded:
    """An example as token ids.

    Ids and marks are kept as arrays; asking for them makes a tuple each time.

    Attributes:
        example: Where it came from; its images are opened when a batch is made.
        input_ids: Tokens, each image's placeholder repeated as often as the model needs.
        supervised: True where the token is taught (it is the target, not the place before it).
        prompt_length: Tokens before the final answer.
    """

    example: Example
    input_ids: tuple[int, ...]
    supervised: tuple[bool, ...]
    prompt_length: int

    @classmethod
    def of(
        cls, example: Example, ids: Iterable[int], marks: Iterable[int], prompt_length: int
    ) -> Encoded:
        """From ids and marks (1 where taught) that are no tuples yet, and needn't become any."""
        return cls(example, cast(Any, ids), cast(Any, marks), prompt_length)

    @property
    def supervised_tokens(self) -> int:
        """How many tokens are taught."""
        return int(stored(self, "supervised").count(1))

    def __len__(self) -> int:
        """Tokens in all."""
        return len(stored(self, "input_ids"))


def encode(example: Example, processing: ModelSide, max_length: int | None = None) -> Encoded:
    """The example as tokens, its answers marked as taught.

    The sequence stops at the final answer's end token. Where the template writes none (LLaVA 1.5
    as converted, base models), the tokenizer's own is added, or the model would never learn to
    stop.

    Args:
        example: A conversation that ends with an answer.
        processing: The model's chat template, tokenizer and image processor.
        max_length: Refuse longer examples; never above the model's own maximum.

    Raises:
        InputError: It is too long, or the model's template cannot write it; with its line.
    """
    return encode_all([example], processing, max_length)[0]


def encode_all(
    examples: Iterable[Example], processing: ModelSide, max_length: int | None = None
) -> list[Encoded]:
    """Every example encoded, in order.

    Raises:
        InputError: Some cannot be; all of them are named, each with its line.
    """
    layouts = Layouts(processing)

    def finished(example: Example, layout: Layout, tokens: Tokens) -> Encoded:
        return _checked(_answering(example, layout, tokens, processing), processing, max_length)

    def text_of(example: Example) -> tuple[str, Layout]:
        layout = layouts.of(example.messages)
        return layout.text, layout

    return _each(examples, text_of, finished, processing)


def encode_prompt(
    example: Example, processing: ModelSide, max_length: int | None = None
) -> Encoded:
    """The example's prompt as tokens, up to where the model has to answer; nothing is taught.

    Raises:
        InputError: It is too long, or the model's template cannot write it; with its line.
    """
    return encode_prompts([example], processing, max_length)[0]


def encode_prompts(
    examples: Iterable[Example],
    processing: ModelSide,
    max_length: int | None = None,
    *,
    check: Callable[[Encoded], None] = lambda prompt: None,
) -> list[Encoded]:
    """Every example's prompt, as `encode_prompt` has it, in order.

    Args:
        examples: Conversations.
        processing: The model's chat template, tokenizer and image processor.
        max_length: Refuse longer prompts; never above the model's own maximum.
        check: Raises `InputError` for a prompt that won't do otherwise.

    Raises:
        InputError: Some cannot be encoded; all of them are named, each with its line.
    """

    def finished(example: Example, _nothing: None, tokens: Tokens) -> Encoded:
        ids, _ = tokens
        made = _with_images(example, (ids, bytearray(len(ids)), len(ids)), processing)
        check(_checked(made, processing, max_length))
        return made

    def text_of(example: Example) -> tuple[str, None]:
        return processing.render(example.prompt, add_generation_prompt=True), None

    return _each(examples, text_of, finished, processing)


def taught_texts(encoded: Encoded, processing: ModelSide) -> list[str]:
    """The text of each taught stretch, special tokens shown."""
    return [text for text, taught in _stretches(encoded, processing) if taught]


def show_mask(encoded: Encoded, processing: ModelSide) -> str:
    """The whole sequence as text, taught stretches inside ⟦ ⟧, image tokens counted."""
    return "".join(
        f"⟦{text}⟧" if taught else text for text, taught in _stretches(encoded, processing)
    )


# -- many at once ----------------------------------------------------------------------------


def _each(
    examples: Iterable[Example],
    text_of: Callable[[Example], tuple[str, T]],
    finished: Callable[[Example, T, Tokens], Encoded],
    processing: ModelSide,
) -> list[Encoded]:
    """All examples' texts tokenized, many at once, and finished one by one.

    Raises:
        InputError: Of every example for which `text_of` or `finished` raised one, in order.
    """
    encoded: list[Encoded] = []
    problems: dict[int, list[str]] = {}
    numbered = enumerate(examples)
    with collector_paused():
        while some := list(islice(numbered, TOGETHER)):
            written: list[tuple[int, Example, str, T]] = []
            for number, example in some:
                with _noted(problems, number, example):
                    written.append((number, example, *text_of(example)))
            tokens = processing.tokenize_all([text for _, _, text, _ in written])
            for (number, example, _, thing), row in zip(written, tokens, strict=True):
                with _noted(problems, number, example):
                    encoded.append(finished(example, thing, row))
    if problems:
        raise InputError(
            shorten([told for number in sorted(problems) for told in problems[number]])
        )
    return encoded


@contextmanager
def _noted(problems: dict[int, list[str]], number: int, example: Example) -> Iterator[None]:
    """Keeps whatever is wrong with an example, its file and line in front."""
    try:
        yield
    except InputError as error:
        problems[number] = [f"{example.source}: {problem}" for problem in error.problems]


def _answering(example: Example, layout: Layout, tokens: Tokens, processing: ModelSide) -> Encoded:
    """The tokens up to the end of the last answer, and which of them are taught."""
    ids, offsets = tokens
    marks = bytearray(len(ids))
    answer: list[int] = []
    for span in layout.taught:
        answer = _inside(offsets, span)
        for place in answer:
            marks[place] = 1
    if not answer:
        raise InputError(f"the tokenizer of {processing.name} makes nothing of the answer")
    ids, marks = ids[: answer[-1] + 1], marks[: answer[-1] + 1]
    if not layout.ended and processing.eos_token_id is not None:
        ids.append(processing.eos_token_id)
        marks.append(1)
    return _with_images(example, (ids, marks, answer[0]), processing)


def _inside(offsets: Sequence[Span], span: Span) -> list[int]:
    """The tokens that have a character of the span.

    Some tokenizers leave a lone blank without width, at its end: it belongs where it ends.
    """
    first, last = span
    return [
        place
        for place, (start, stop) in enumerate(offsets)
        if stop > first and (start < last or start == stop <= last)
    ]


# -- images and lengths ----------------------------------------------------------------------


def _with_images(
    example: Example, short: tuple[list[int], bytearray, int], processing: ModelSide
) -> Encoded:
    """The tokens, their marks and the prompt's length, each placeholder as often as is needed."""
    short_ids, short_marks, prompt_length = short
    token, images = processing.image_token_id, example.images
    places = [] if token is None else [i for i, one in enumerate(short_ids) if one == token]
    if len(places) != len(images):
        raise InputError(
            f"the model reads {len(places)} image tokens for {len(images)} images; does the text"
            " itself spell the image token?"
        )
    if not images:
        return Encoded.of(example, short_ids, short_marks, prompt_length)
    counts = processing.image_token_counts([image_size(path) for path in images])
    ids: list[int] = []
    marks = bytearray()
    before = 0
    for place, count in zip(places, counts, strict=True):
        ids += short_ids[before:place] + [short_ids[place]] * count
        marks += short_marks[before:place] + bytes(count)
        before = place + 1
    grown = sum(n - 1 for place, n in zip(places, counts, strict=True) if place < prompt_length)
    ids, marks = ids + short_ids[before:], marks + short_marks[before:]
    return Encoded.of(example, ids, marks, prompt_length + grown)


def _checked(encoded: Encoded, processing: ModelSide, max_length: int | None) -> Encoded:
    limits = [limit for limit in (max_length, processing.max_length) if limit is not None]
    if limits and len(encoded) > min(limits):
        whose = "max_length" if min(limits) == max_length else f"the maximum of {processing.name}"
        raise InputError(
            f"{len(encoded)} tokens ({encoded.prompt_length} of them prompt) are more than {whose},"
            f" {min(limits)}; shorten it or take it out (nothing is cut silently)"
        )
    return encoded


def _stretches(encoded: Encoded, processing: ModelSide) -> Iterator[tuple[str, bool]]:
    pairs = zip(encoded.input_ids, encoded.supervised, strict=True)
    for (taught, image), run in groupby(
        pairs, key=lambda pair: (pair[1], pair[0] == processing.image_token_id)
    ):
        ids = [token for token, _ in run]
        if image:
            yield f"{processing.tokenizer.decode(ids[:1])}×{len(ids)}", taught
        else:
            yield processing.tokenizer.decode(ids), taught
