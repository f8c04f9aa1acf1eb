"""Where a chat template writes the answers: found by rendering, never assumed of any family."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from narrowtune.data.example import Message, TextPart
from narrowtune.data.model_side import ModelSide
from narrowtune.errors import InputError

STAND_IN = "Xq7answer{}q7X"  # takes words' place, to find where the template writes them

Span = tuple[int, int]
Kind = tuple[tuple[str, tuple[bool, ...]], ...]
"""A conversation without its words: each turn's role, and which of its parts are words."""


@dataclass(frozen=True)
class Layout:
    """A rendered conversation: its text, what of it is taught, whether an end token closes it."""

    text: str
    taught: tuple[Span, ...]
    ended: bool


class Layouts:
    """Lays out conversations by one model's template, and remembers how it writes each kind.

    Args:
        processing: The model's chat template.
    """

    def __init__(self, processing: ModelSide) -> None:
        self._processing = processing
        ends = "|".join(map(re.escape, processing.end_strings()))
        self._end = re.compile(rf"\s*(?:{ends})") if ends else None
        self._frames: dict[Kind, list[str] | None] = {}

    def of(self, messages: Sequence[Message]) -> Layout:
        """The conversation's text and the spans of its answers.

        Raises:
            InputError: The template refuses or rewrites it.
        """
        render = self._processing.render
        text = render(messages, add_generation_prompt=False)
        spans = self._answer_spans(text, messages)
        taught: list[Span] = []
        ended = False
        turns = [index for index, message in enumerate(messages) if message.role == "assistant"]
        for turn, (start, stop) in zip(turns, spans, strict=True):
            opening = render(messages[:turn], add_generation_prompt=True)
            if text.startswith(opening) and len(opening) <= start:
                start = len(opening)  # blanks between prompt and answer are the model's to say
            elif turn == turns[-1]:
                # The template writes another header in history than it gives for generation. The
                # model is taught behind the one that it will be asked with.
                text, stop, start = (
                    opening + text[start:],
                    stop + len(opening) - start,
                    len(opening),
                )
            end = self._end.match(text, stop) if self._end else None
            ended = end is not None
            taught.append((start, end.end() if end else stop))
        return Layout(text, tuple(taught), ended)

    def _answer_spans(self, text: str, messages: Sequence[Message]) -> list[Span]:
        """By the frame of its kind where that gives the text, else by a rendering of its own.

        Both rest on the same: what surrounds the stand-ins surrounds the words, and the two
        together must be the text, to the letter.
        """
        kind = _kind(messages)
        if kind not in self._frames:  # worth a rendering when the kind comes again
            self._frames[kind] = None
            return self._posed_spans(text, messages)
        frame = self._frames[kind]
        if frame is None:
            frame = self._frames[kind] = self._frame(messages)
        return _framed_spans(text, messages, frame) or self._posed_spans(text, messages)

    def _frame(self, messages: Sequence[Message]) -> list[str]:
        """What the template writes around all words of such a conversation; [] if it can't be told.

        An answer is one piece of words, whatever its parts.
        """
        try:
            return self._around(messages, everything=True)
        except InputError:
            return []

    def _posed_spans(self, text: str, messages: Sequence[Message]) -> list[Span]:
        """The template is run again, with a stand-in for every answer.

        That works for templates that strip blanks, drop things from earlier turns or write another
        header than their generation prompt.
        """
        around = self._around(messages, everything=False)
        answers = [message.text for message in messages if message.role == "assistant"]
        for stripped in (str, str.strip, str.rstrip, str.lstrip):
            if spans := _woven(text, around, [stripped(answer) for answer in answers]):
                return spans
        raise InputError(
            f"the chat template of {self._processing.name} rewrites the answer (reasoning marks in"
            " it?), so its tokens cannot be told from the prompt's"
        )

    def _around(self, messages: Sequence[Message], *, everything: bool) -> list[str]:
        """What the template writes before, between and after the answers, or all words."""
        posed, names = _posed(messages, everything)
        rendered = self._processing.render(posed, add_generation_prompt=False)
        around = re.split(f"({STAND_IN.format('[0-9]+')})", rendered)
        if around[1::2] != names:
            raise InputError(
                f"the chat template of {self._processing.name} does not write each answer once:"
                f" {len(names)} answers, {len(around) // 2} found"
            )
        return around[::2]


def _posed(messages: Sequence[Message], everything: bool) -> tuple[list[Message], list[str]]:
    """The conversation with a stand-in for every answer, or for all words; and the stand-ins."""
    names: list[str] = []

    def stand_in() -> TextPart:
        names.append(STAND_IN.format(len(names)))
        return TextPart(names[-1])

    posed: list[Message] = []
    for message in messages:
        parts = message.parts
        if message.role == "assistant":
            parts = (stand_in(),)
        elif everything:
            parts = tuple(stand_in() if isinstance(part, TextPart) else part for part in parts)
        posed.append(Message(message.role, parts))
    return posed, names


def _kind(messages: Sequence[Message]) -> Kind:
    return tuple(
        (message.role, ())
        if message.role == "assistant"
        else (message.role, tuple(isinstance(part, TextPart) for part in message.parts))
        for message in messages
    )


def _words(messages: Sequence[Message]) -> list[tuple[str, bool]]:
    """The conversation's words piece by piece, each with whether it is an answer."""
    words: list[tuple[str, bool]] = []
    for message in messages:
        if message.role == "assistant":
            words.append((message.text, True))
        else:
            words += [(part.text, False) for part in message.parts if isinstance(part, TextPart)]
    return words


def _framed_spans(text: str, messages: Sequence[Message], frame: list[str]) -> list[Span]:
    """The answers' spans; [] where frame and words don't give the text."""
    if not frame:
        return []
    words = _words(messages)
    for stripped in (str, str.strip):
        if spans := _woven(text, frame, [stripped(piece) for piece, _ in words]):
            return [span for span, (_, answer) in zip(spans, words, strict=True) if answer]
    return []


def _woven(text: str, around: Sequence[str], pieces: Sequence[str]) -> list[Span]:
    """Where the pieces stand, if they and what is around them are the text; else []."""
    spans, place = [], 0
    woven = [around[0]]
    for piece, after in zip(pieces, around[1:], strict=True):
        place += len(woven[-1])
        spans.append((place, place + len(piece)))
        place += len(piece)
        woven += [piece, after]
    return spans if "".join(woven) == text else []
