"""Examples as tokens, each marked as taught or not.

Taught is what the model has to say itself: every answer's words and the token that ends it.
Nothing of a prompt is, no role header, no image token, no line break after the end token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby

from narrowtune.data.example import Example, Message, TextPart
from narrowtune.data.formats import shorten
from narrowtune.data.images import image_size
from narrowtune.data.model_side import ModelSide
from narrowtune.errors import InputError

STAND_IN = "Xq7answer{}q7X"  # takes an answer's place, to find where the template writes it

Span = tuple[int, int]


@dataclass(frozen=True)
class Encoded:
    """An example as token ids.

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

    @property
    def supervised_tokens(self) -> int:
        """How many tokens are taught."""
        return sum(self.supervised)

    def __len__(self) -> int:
        """Tokens in all."""
        return len(self.input_ids)


@dataclass(frozen=True)
class Layout:
    """A rendered conversation: its text, what of it is taught, whether an end token closes it."""

    text: str
    taught: tuple[Span, ...]
    ended: bool


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
    with _located(example):
        layout = _lay_out(example.messages, processing)
        ids, offsets = processing.tokenize(layout.text)
        taught = [any(_inside(offset, span) for span in layout.taught) for offset in offsets]
        answer = [i for i, offset in enumerate(offsets) if _inside(offset, layout.taught[-1])]
        if not answer:
            raise InputError(f"the tokenizer of {processing.name} makes nothing of the answer")
        ids, taught = ids[: answer[-1] + 1], taught[: answer[-1] + 1]
        if not layout.ended and processing.eos_token_id is not None:
            ids, taught = [*ids, processing.eos_token_id], [*taught, True]
        short = Encoded(example, tuple(ids), tuple(taught), answer[0])
        return _checked(_with_images(short, processing), processing, max_length)


def encode_prompt(
    example: Example, processing: ModelSide, max_length: int | None = None
) -> Encoded:
    """The example's prompt as tokens, up to where the model has to answer; nothing is taught.

    Raises:
        InputError: It is too long, or the model's template cannot write it; with its line.
    """
    with _located(example):
        ids, _ = processing.tokenize(processing.render(example.prompt, add_generation_prompt=True))
        short = Encoded(example, tuple(ids), (False,) * len(ids), len(ids))
        return _checked(_with_images(short, processing), processing, max_length)


def encode_all(
    examples: Iterable[Example], processing: ModelSide, max_length: int | None = None
) -> list[Encoded]:
    """Every example encoded, in order.

    Raises:
        InputError: Some cannot be; all of them are named, each with its line.
    """
    encoded: list[Encoded] = []
    problems: list[str] = []
    for example in examples:
        try:
            encoded.append(encode(example, processing, max_length))
        except InputError as error:
            problems.extend(error.problems)
    if problems:
        raise InputError(shorten(problems))
    return encoded


def taught_texts(encoded: Encoded, processing: ModelSide) -> list[str]:
    """The text of each taught stretch, special tokens shown."""
    return [text for text, taught in _stretches(encoded, processing) if taught]


def show_mask(encoded: Encoded, processing: ModelSide) -> str:
    """The whole sequence as text, taught stretches inside ⟦ ⟧, image tokens counted."""
    return "".join(
        f"⟦{text}⟧" if taught else text for text, taught in _stretches(encoded, processing)
    )


# -- where the answers stand -----------------------------------------------------------------


def _lay_out(messages: Sequence[Message], processing: ModelSide) -> Layout:
    """The conversation's text and the spans of its answers.

    The template is run twice, once with a stand-in for every answer: what surrounds the stand-ins
    surrounds the answers. That works for templates that strip blanks, drop things from earlier
    turns or write another header than their generation prompt.
    """
    text = processing.render(messages, add_generation_prompt=False)
    spans = _answer_spans(text, messages, processing)
    ends = re.compile(r"\s*(?:" + "|".join(map(re.escape, processing.end_strings())) + ")")
    taught: list[Span] = []
    ended = False
    turns = [index for index, message in enumerate(messages) if message.role == "assistant"]
    for turn, (start, stop) in zip(turns, spans, strict=True):
        opening = processing.render(messages[:turn], add_generation_prompt=True)
        if text.startswith(opening) and len(opening) <= start:
            start = len(opening)  # blanks between prompt and answer are the model's to say
        elif turn == turns[-1]:
            # The template writes another header in history than it gives for generation. The
            # model is taught behind the one that it will be asked with.
            text, stop, start = opening + text[start:], stop + len(opening) - start, len(opening)
        end = ends.match(text, stop) if processing.end_strings() else None
        ended = end is not None
        taught.append((start, end.end() if end else stop))
    return Layout(text, tuple(taught), ended)


def _answer_spans(text: str, messages: Sequence[Message], processing: ModelSide) -> list[Span]:
    answers = [message.text for message in messages if message.role == "assistant"]
    around = _around_answers(messages, len(answers), processing)
    for stripped in (str, str.strip, str.rstrip, str.lstrip):
        written = [stripped(answer) for answer in answers]
        spans, place = [], 0
        for before, answer in zip(around, written, strict=False):
            place += len(before)
            spans.append((place, place + len(answer)))
            place += len(answer)
        woven = "".join(a + b for a, b in zip(around, [*written, ""], strict=True))
        if woven == text:
            return spans
    raise InputError(
        f"the chat template of {processing.name} rewrites the answer (reasoning marks in it?), so"
        " its tokens cannot be told from the prompt's"
    )


def _around_answers(messages: Sequence[Message], answers: int, processing: ModelSide) -> list[str]:
    """What the template writes before, between and after the answers."""
    names = iter([STAND_IN.format(number) for number in range(answers)])
    posed = [
        replace(message, parts=(TextPart(next(names)),)) if message.role == "assistant" else message
        for message in messages
    ]
    rendered = processing.render(posed, add_generation_prompt=False)
    around = re.split(STAND_IN.format(r"\d+"), rendered)
    if len(around) != answers + 1:
        raise InputError(
            f"the chat template of {processing.name} does not write each answer once:"
            f" {answers} answers, {len(around) - 1} found"
        )
    return around


def _inside(offset: Span, span: Span) -> bool:
    """Whether a token has a character of the span.

    Some tokenizers leave a lone blank without width, at its end: it belongs where it ends.
    """
    (start, stop), (first, last) = offset, span
    return stop > first and (start < last or start == stop <= last)


# -- images and lengths ----------------------------------------------------------------------


def _with_images(short: Encoded, processing: ModelSide) -> Encoded:
    """Each placeholder repeated as often as its image needs."""
    token = processing.image_token_id
    images = short.example.images
    places = [i for i, t in enumerate(short.input_ids) if token is not None and t == token]
    if len(places) != len(images):
        raise InputError(
            f"the model reads {len(places)} image tokens for {len(images)} images; does the text"
            " itself spell the image token?"
        )
    if not images:
        return short
    counts = processing.image_token_counts([image_size(path) for path in images])
    times = dict(zip(places, counts, strict=True))
    ids: list[int] = []
    taught: list[bool] = []
    for index, (one, mark) in enumerate(zip(short.input_ids, short.supervised, strict=True)):
        ids += [one] * times.get(index, 1)
        taught += [mark and index not in times] * times.get(index, 1)
    grown = sum(count - 1 for place, count in times.items() if place < short.prompt_length)
    return Encoded(short.example, tuple(ids), tuple(taught), short.prompt_length + grown)


def _checked(encoded: Encoded, processing: ModelSide, max_length: int | None) -> Encoded:
    limits = [limit for limit in (max_length, processing.max_length) if limit is not None]
    if limits and len(encoded) > min(limits):
        whose = "max_length" if min(limits) == max_length else f"the maximum of {processing.name}"
        raise InputError(
            f"{len(encoded)} tokens ({encoded.prompt_length} of them prompt) are more than {whose},"
            f" {min(limits)}; shorten it or take it out (nothing is cut silently)"
        )
    return encoded


@contextmanager
def _located(example: Example) -> Iterator[None]:
    """Puts the example's file and line before whatever is wrong with it."""
    try:
        yield
    except InputError as error:
        raise InputError([f"{example.source}: {problem}" for problem in error.problems]) from error


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
