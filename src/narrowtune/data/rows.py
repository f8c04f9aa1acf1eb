"""One row of a data file, in either format, made into an `Example`; every problem is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from narrowtune.data.example import Example, ImagePart, Message, Part, TextPart
from narrowtune.data.images import image_problem
from narrowtune.errors import nearest

MARK = "<image>"
IMAGE_KEYS = ("image", "path", "url", "image_url")
ROLES = {"system": "system", "user": "user", "assistant": "assistant"}
LLAVA_ROLES = {**ROLES, "human": "user", "gpt": "assistant"}


@dataclass
class Reader:
    """Reads one row: collects its problems, hands out its row-level images in order.

    Attributes:
        folder: Where relative image paths start.
        problems: What is wrong with the row, without its line.
    """

    folder: Path
    problems: list[str] = field(default_factory=list)
    _queue: list[Path] = field(default_factory=list)
    _given: int = 0
    _slots: int = 0

    def example(self, row: dict[str, Any], fallback_id: str, source: str) -> Example | None:
        """The row as an example, or None where `problems` says why not."""
        turns = self._turns(row)
        if turns is None:
            return None
        self._queue = self._row_images(row)
        self._given = len(self._queue)
        messages = tuple(m for turn in turns if (m := self._message(turn)) is not None)
        if self._slots != self._given:
            self.problems.append(_mark_problem(self._slots, self._given))
        self._check_turns(messages, len(turns))
        answer = messages[-1].text if messages else ""
        choices = self._strings(row, "choices")
        references = self._references(row, answer)
        self._check_choices(choices, answer)
        identity = str(row["id"]) if row.get("id") is not None else fallback_id
        if self.problems:
            return None
        cluster = str(row["cluster"]) if row.get("cluster") is not None else ""
        return Example(identity, messages, source, references, choices, cluster)

    # -- the conversation ----------------------------------------------------------------------

    def _turns(self, row: dict[str, Any]) -> list[tuple[Any, Any, dict[str, str]]] | None:
        """(role, content, role table) of each turn, whichever format the row is in."""
        for key, role, content, table in (
            ("messages", "role", "content", ROLES),
            ("conversations", "from", "value", LLAVA_ROLES),
        ):
            if key not in row:
                continue
            turns = row[key]
            if not isinstance(turns, list) or not all(isinstance(t, dict) for t in turns):
                self.problems.append(f"'{key}' is no list of objects")
                return None
            return [(turn.get(role), turn.get(content), table) for turn in turns]
        keys = ", ".join(repr(key) for key in row) or "none"
        self.problems.append(
            "neither format is recognised: wanted 'messages' (a list of role and content) or"
            f" 'conversations' (LLaVA: a list of from and value); its keys are {keys}"
        )
        return None

    def _message(self, turn: tuple[Any, Any, dict[str, str]]) -> Message | None:
        written, content, table = turn
        role = table.get(written) if isinstance(written, str) else None
        if role is None:
            self.problems.append(f"unknown role {written!r}; {nearest(str(written), table)}")
        parts = tuple(self._parts(content))
        if role is None:
            return None
        message = Message(role, parts)
        if role == "assistant":
            self._check_answer(message)
        elif not message.text.strip() and not message.images:
            self.problems.append(f"a {role} message without text")
        return message

    def _check_answer(self, message: Message) -> None:
        if not message.text.strip():
            self.problems.append("an assistant message is empty; an answer needs words")
        if message.images:
            self.problems.append("an assistant message holds an image; only prompts may")

    def _parts(self, content: Any) -> Iterator[Part]:
        if content is None:
            return
        if isinstance(content, str):
            yield from self._marked(content)
        elif isinstance(content, list):
            for block in content:
                yield from self._block(block)
        else:
            self.problems.append(f"content is a {type(content).__name__}; wanted text or blocks")

    def _marked(self, text: str) -> Iterator[Part]:
        """The text cut at its marks; a line break next to a mark belongs to the mark."""
        if not _is_whole(text):
            self.problems.append(f"half a character (a lone surrogate) in {text!r:.60}")
        pieces = text.split(MARK)
        for number, piece in enumerate(pieces):
            if number > 0:
                yield from self._next_image()
                piece = piece.removeprefix("\n")
            if number < len(pieces) - 1:
                piece = piece.removesuffix("\n")
            if piece:
                yield TextPart(piece)

    def _block(self, block: Any) -> Iterator[Part]:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text" and isinstance(block.get("text"), str):
            yield from self._marked(block["text"])
        elif kind in ("image", "image_url"):
            where = next(
                (block[k] for k in ("image", "path", "url", "image_url") if k in block), None
            )
            if where is None:
                yield from self._next_image()
            elif (path := self._path(where)) is not None:
                yield ImagePart(path)
        else:
            self.problems.append(f"unknown content block {block!r:.80}; wanted type text or image")

    # -- images --------------------------------------------------------------------------------

    def _next_image(self) -> Iterator[Part]:
        self._slots += 1
        if self._queue:
            yield ImagePart(self._queue.pop(0))

    def _row_images(self, row: dict[str, Any]) -> list[Path]:
        given = row.get("images") if row.get("images") is not None else row.get("image")
        if given is None:
            return []
        items = given if isinstance(given, list) else [given]
        paths = [self._path(item) for item in items]
        # A bad path keeps its place, so that it is not told again as a wrong number of marks.
        return [path if path is not None else Path() for path in paths]

    def _path(self, where: Any) -> Path | None:
        if isinstance(where, dict):
            where = where.get("path") or where.get("url")
        if not isinstance(where, str) or not where:
            self.problems.append(f"an image is given as {where!r:.60}; wanted a path")
            return None
        if where.startswith(("http://", "https://", "data:")):
            self.problems.append(f"image {where[:60]} is no local file; download it and name it")
            return None
        path = self.folder / where.removeprefix("file://")
        if (problem := image_problem(path)) is not None:
            self.problems.append(problem)
        return path

    # -- what must hold of the whole row -------------------------------------------------------

    def _check_turns(self, messages: tuple[Message, ...], written: int) -> None:
        roles = [message.role for message in messages]
        if len(messages) != written:  # an unknown role is told already
            return
        if "assistant" not in roles:
            self.problems.append("no assistant message, so nothing to teach")
        elif roles[-1] != "assistant":
            self.problems.append(f"it ends with a {roles[-1]} message; the answer must come last")
        elif "user" not in roles:
            self.problems.append("no user message, so no question to answer")

    def _references(self, row: dict[str, Any], answer: str) -> tuple[str, ...]:
        """The taught answer, then the others; equal ones stay, they are votes to some metrics."""
        others = list(self._strings(row, "references" if "references" in row else "answers"))
        if answer in others:
            others.remove(answer)
        return (answer, *others)

    def _check_choices(self, choices: tuple[str, ...], answer: str) -> None:
        if choices and answer.strip() not in {choice.strip() for choice in choices}:
            shown = ", ".join(repr(choice) for choice in choices)
            self.problems.append(f"the answer {answer!r} is not among the choices {shown}")

    def _strings(self, row: dict[str, Any], key: str) -> tuple[str, ...]:
        given = row.get(key)
        items = [] if given is None else given if isinstance(given, list) else [given]
        if not all(isinstance(item, str) and item.strip() and _is_whole(item) for item in items):
            self.problems.append(f"'{key}' must be a list of non-empty strings")
            return ()
        return tuple(items)


def _mark_problem(marks: int, images: int) -> str:
    def count(number: int, noun: str) -> str:
        return f"{number} {noun}" + ("" if number == 1 else "s")

    return (
        f"{count(marks, f'{MARK} mark')} but {count(images, 'image')};"
        f" write {MARK} once where each image belongs"
    )


def _is_whole(text: str) -> bool:
    """Whether a tokenizer can read it: JSON may spell half of a character, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
