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

from narrowtune.data.collector import collector_paused
from narrowtune.data.example import Example, Message
from narrowtune.data.images import image_header, pixel_digest
from narrowtune.experiment import OverlapKind

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
    with collector_paused():
        pictures = _Pictures(_paths(taught.values()), _paths(tested.values()))
        known = {stage: _index(_File(rows, pictures)) for stage, rows in taught.items()}
        return [
            overlap
            for task, rows in tested.items()
            for stage, index in known.items()
            for overlap in _shared((task, _File(rows, pictures)), (stage, index))
        ]


def _shared(test: tuple[str, _File], train: tuple[str, _Taught]) -> Iterator[Overlap]:
    (task, file), (stage, index) = test, train
    pictures = ((row.source, index.picture(file.pictures(row.messages))) for row in file.rows)
    asked = ((row.source, index.question(one)) for row in file.rows for one in file.final(row))
    yield from _overlap("images", stage, task, pictures)
    yield from _overlap("questions", stage, task, asked)


def _overlap(
    kind: OverlapKind, stage: str, task: str, places: Iterable[tuple[str, str | None]]
) -> Iterator[Overlap]:
    found: dict[str, str | None] = {}
    for test, train in places:
        found[test] = found.get(test) or train
    shared = tuple((test, train) for test, train in found.items() if train is not None)
    if shared:
        yield Overlap(kind, stage, task, len(shared), len(found), shared[:SHOWN])


class _Pictures:
    """Digests of images, only of such sizes as occur on both sides; the others are themselves."""

    def __init__(self, *sides: Iterable[Path]) -> None:
        self._headers = [{path: image_header(path) for path in side} for side in sides]
        self._sizes = self._shared_sizes()
        self._drafts = self._shared_drafts()
        self._digests: dict[Path, bytes] = {}

    def digest(self, path: Path) -> bytes:
        """Of the pixels; an image of a size that the other side lacks is only itself."""
        if path not in self._digests:
            self._digests[path] = self._digest(path)
        return self._digests[path]

    def _digest(self, path: Path) -> bytes:
        size = next(side[path][0] for side in self._headers if path in side)
        if size not in self._sizes:
            return str(path).encode()
        draft = pixel_digest(path, drafted=True) if self._sizes[size] else None
        return draft if draft is not None and draft not in self._drafts else pixel_digest(path)

    def _shared_sizes(self) -> dict[tuple[int, int], bool]:
        """Sizes that images of both sides have, and whether only JPEGs do."""
        headers = [set(side.values()) for side in self._headers]
        shared = set.intersection(*({size for size, _ in side} for side in headers))
        others = {size for side in headers for size, kind in side if kind != "JPEG"}
        return {size: size not in others for size in shared}

    def _shared_drafts(self) -> frozenset[bytes]:
        """Digests at an eighth of the size that both sides have: worth looking at in full."""
        drafts = [
            {
                pixel_digest(path, drafted=True)
                for path, (size, _) in side.items()
                if self._sizes.get(size, False)
            }
            for side in self._headers
        ]
        return frozenset(set.intersection(*drafts))


def _paths(files: Iterable[Sequence[Example]]) -> list[Path]:
    """Each image of these rows once."""
    return list(dict.fromkeys(path for rows in files for row in rows for path in row.images))


def _index(file: _File) -> _Taught:
    index = _Taught()
    for row in file.rows:
        for digest in file.pictures(row.messages):
            index.pictures.setdefault(digest, row.source)
        for asked in file.every(row):
            index.questions.setdefault(asked.question, {}).setdefault(asked.choices, row.source)
    return index


class _File:
    """Reads questions off a file's rows; `pictures` knows the images of both sides."""

    def __init__(self, rows: Sequence[Example], pictures: _Pictures) -> None:
        self.rows = rows
        self._pictures = pictures
        as_asked = {row.source: row for row in reversed(rows)}
        self._hints = _common(_last_words(row.prompt) for row in as_asked.values())

    def pictures(self, messages: Iterable[Message]) -> tuple[bytes, ...]:
        """A digest for each image."""
        return tuple(self._pictures.digest(path) for one in messages for path in one.images)

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


def _common(questions: Iterable[str]) -> frozenset[str]:
    """Lines that all questions of a file share, as "Answer with one word.": asked of none alone.

    Where they would leave nothing of a question, they are the question.
    """
    asked: list[list[str]] = []
    shared: frozenset[str] | None = None
    for question in questions:
        asked.append(_lines(question))
        shared = frozenset(asked[-1]) if shared is None else shared.intersection(asked[-1])
        if not shared:
            return frozenset()  # as a rule two questions are enough to see it
    nothing_left = any(shared.issuperset(lines) for lines in asked) if shared else True
    return frozenset() if nothing_left or shared is None else shared


def _lines(text: str) -> list[str]:
    """The text's lines in their plain form, without empty ones."""
    return [line for given in text.splitlines() if (line := plain_words(given))]


def plain_words(text: str) -> str:
    """What is compared: "Is it  2 + 1.5 ?" gives "is it 2 + 1.5".

    Lower case, single blanks, no punctuation at the edges of words; signs that mean something stay.
    """
    words = unicodedata.normalize("NFKC", text).casefold().split()
    return " ".join([bare for word in words if (bare := word.rstrip(_CLOSING).lstrip(_OPENING))])
