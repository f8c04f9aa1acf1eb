"""What a test file shares with a training file: pictures and questions, found by hash. No torch.

A test that was trained on measures memory. Pictures are the same if their pixels are, in whatever
file format; a question is the same if its words are, asked of the same pictures where it has any
("How many birds?" is asked of many).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from narrowtune.data.example import Example, Message
from narrowtune.data.images import image_header, image_size, pixel_digest
from narrowtune.experiment import OverlapKind

Sizes = Mapping[tuple[int, int], bool]
SHOWN = 3
SAYING: dict[OverlapKind, str] = {"images": "show pictures", "questions": "ask questions"}

_OPENING, _CLOSING = "\"'([{“‘«¿¡", ".,;:!?\"')]}”’»…"


@dataclass(frozen=True)
class Overlap:
    """What a test file shares with a training file, of one kind.

    Attributes:
        kind: `images`, or `questions`.
        stage: Whose training it is.
        task: Whose test it is.
        rows: Test rows that share.
        tested: Test rows in all.
        places: The first few that share, as (test file:line, training file:line).
    """

    kind: OverlapKind
    stage: str
    task: str
    rows: int
    tested: int
    places: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        """What is shared, how often and where."""
        where = ", ".join(f"{test} (as {train})" for test, train in self.places)
        more = self.rows - len(self.places)
        return (
            f"{self.rows} of {self.tested} test rows {SAYING[self.kind]} that {self.stage} trains "
            f"on: {where}" + (f" and {more} more" if more else "")
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, ready for JSON."""
        return {**asdict(self), "places": [list(pair) for pair in self.places]}


class _Question(NamedTuple):
    """What is asked: the words, and the pictures they are asked of."""

    words: str
    pictures: tuple[bytes, ...]


class _Asked(NamedTuple):
    """A question with the choices it comes with; where both have some, they must agree too."""

    question: _Question
    choices: frozenset[str]


@dataclass
class _Taught:
    """Where each picture and question of a training file stands first."""

    pictures: dict[bytes, str] = field(default_factory=dict)
    questions: dict[_Question, dict[frozenset[str], str]] = field(default_factory=dict)

    def picture(self, digests: Iterable[bytes]) -> str | None:
        return next((self.pictures[one] for one in digests if one in self.pictures), None)

    def question(self, asked: _Asked) -> str | None:
        known = self.questions.get(asked.question, {})
        if not asked.choices:
            return next(iter(known.values()), None)
        return known.get(asked.choices) or known.get(frozenset())


def find_overlaps(
    taught: Mapping[str, Sequence[Example]], tested: Mapping[str, Sequence[Example]]
) -> list[Overlap]:
    """Everything that the tests share with any training, whichever stage either belongs to.

    Only images whose size occurs on both sides are decoded, each once.

    Args:
        taught: Training rows by stage; every answered turn of theirs counts.
        tested: Test rows by task. Rows of one source are wordings of one row, the first as it is
            asked; it shares what any of them does.
    """
    sizes = _shared_sizes(taught, tested)
    drafts = _shared_drafts(sizes, taught, tested)
    known = {stage: _index(_File(rows, sizes, drafts)) for stage, rows in taught.items()}
    found: list[Overlap] = []
    for task, rows in tested.items():
        file = _File(rows, sizes, drafts)
        for stage, index in known.items():
            pictures = ((row.source, index.picture(file.pictures(row.messages))) for row in rows)
            asked = ((row.source, index.question(one)) for row in rows for one in file.final(row))
            found += _overlap("images", stage, task, pictures)
            found += _overlap("questions", stage, task, asked)
    return found


def _overlap(
    kind: OverlapKind, stage: str, task: str, places: Iterable[tuple[str, str | None]]
) -> Iterator[Overlap]:
    found: dict[str, str | None] = {}
    for test, train in places:
        found[test] = found.get(test) or train
    shared = tuple((test, train) for test, train in found.items() if train is not None)
    if shared:
        yield Overlap(kind, stage, task, len(shared), len(found), shared[:SHOWN])


def _shared_sizes(*sides: Mapping[str, Sequence[Example]]) -> Sizes:
    """Sizes that images of both sides have, and whether only JPEGs do."""
    headers = [
        {image_header(path) for rows in side.values() for row in rows for path in row.images}
        for side in sides
    ]
    shared = set.intersection(*({size for size, _ in side} for side in headers))
    others = {size for side in headers for size, kind in side if kind != "JPEG"}
    return {size: size not in others for size in shared}


def _shared_drafts(sizes: Sizes, *sides: Mapping[str, Sequence[Example]]) -> frozenset[bytes]:
    """Digests at an eighth of the size that both sides have: worth looking at in full."""
    drafts = [
        {
            pixel_digest(path, drafted=True)
            for rows in side.values()
            for row in rows
            for path in row.images
            if sizes.get(image_size(path), False)
        }
        for side in sides
    ]
    return frozenset(set.intersection(*drafts))


def _index(file: _File) -> _Taught:
    index = _Taught()
    for row in file.rows:
        for digest in file.pictures(row.messages):
            index.pictures.setdefault(digest, row.source)
        for asked in file.every(row):
            index.questions.setdefault(asked.question, {}).setdefault(asked.choices, row.source)
    return index


class _File:
    """Reads questions off a file's rows; `sizes` and `drafts` are what images could share."""

    def __init__(self, rows: Sequence[Example], sizes: Sizes, drafts: frozenset[bytes]) -> None:
        self.rows = rows
        self._sizes = sizes
        self._drafts = drafts
        as_asked = {row.source: row for row in reversed(rows)}
        self._hints = _common([_lines(_last_words(row.prompt)) for row in as_asked.values()])

    def pictures(self, messages: Iterable[Message]) -> tuple[bytes, ...]:
        """A digest for each image."""
        return tuple(self._digest(path) for message in messages for path in message.images)

    def _digest(self, path: Path) -> bytes:
        """Of the pixels; an image of a size that the other side lacks is only itself."""
        size = image_size(path)
        if size not in self._sizes:
            return str(path).encode()
        draft = pixel_digest(path, drafted=True) if self._sizes[size] else None
        return draft if draft is not None and draft not in self._drafts else pixel_digest(path)

    def final(self, row: Example) -> Iterator[_Asked]:
        """What the last answer answers."""
        yield from self._asked(row, row.prompt)

    def every(self, row: Example) -> Iterator[_Asked]:
        """What each answer of the conversation answers."""
        for place, message in enumerate(row.messages):
            if message.role == "assistant":
                yield from self._asked(row, row.messages[:place])

    def _asked(self, row: Example, before: Sequence[Message]) -> Iterator[_Asked]:
        """With pictures the last words count, they say what is meant; without, all that was said.

        Neither is a system prompt part of a question. It comes without the file's hints and, for a
        file that has them on some rows alone, with them.
        """
        pictures = self.pictures(before)
        said = [message.text for message in before if message.role != "system"]
        text = _last_words(before) if pictures else "\n".join(said)
        lines = _lines(text)
        choices = frozenset(plain_words(choice) for choice in row.choices)
        bare = " ".join(line for line in lines if line not in self._hints)
        for words in dict.fromkeys((bare, " ".join(lines))):
            yield _Asked(_Question(words, pictures), choices)


def _last_words(before: Sequence[Message]) -> str:
    """What the user said since the last answer."""
    said: list[str] = []
    for message in reversed(before):
        if message.role == "assistant":
            break
        if message.role == "user":
            said.insert(0, message.text)
    return "\n".join(said)


def _common(questions: Sequence[list[str]]) -> frozenset[str]:
    """Lines that all questions of a file share, as "Answer with one word.": asked of none alone.

    Where they would leave nothing of a question, they are the question.
    """
    shared = frozenset(questions[0]).intersection(*questions[1:]) if questions else frozenset()
    nothing_left = any(shared.issuperset(lines) for lines in questions)
    return frozenset() if nothing_left else shared


def _lines(text: str) -> list[str]:
    """The text's lines in their plain form, without empty ones."""
    return [line for given in text.splitlines() if (line := plain_words(given))]


def plain_words(text: str) -> str:
    """What is compared: "Is it  2 + 1.5 ?" gives "is it 2 + 1.5".

    Lower case, single blanks, no punctuation at the edges of words; signs that mean something stay.
    """
    words = unicodedata.normalize("NFKC", text).casefold().split()
    bare = (word.rstrip(_CLOSING).lstrip(_OPENING) for word in words)
    return " ".join(word for word in bare if word)
