"""lmms-eval's conversations as examples of ours, their pictures laid out as files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from narrowtune.data.example import Example, ImagePart, Message, Part, TextPart
from narrowtune.errors import InputError

UNREAD = "-"  # a reference has to stand there; the harness judges, not we


@dataclass(frozen=True)
class Pictures:
    """A temporary folder of pictures, each once, gone with the task that shows them."""

    folder: TemporaryDirectory[str]

    @classmethod
    def new(cls) -> Pictures:
        """An empty one."""
        return cls(TemporaryDirectory(prefix="narrowtune-"))

    def keep(self, picture: Any) -> Path:
        """A picture's file: its own where it is a path, else its pixels as PNG."""
        if isinstance(picture, str | Path):
            return Path(picture)
        image = picture.convert("RGB")
        pixels = hashlib.sha256(b"%d %d " % image.size + image.tobytes()).hexdigest()
        path = Path(self.folder.name) / f"{pixels}.png"
        if not path.exists():
            image.save(path, compress_level=1)
        return path


def example_of(
    where: str,
    number: str,
    messages: Sequence[Mapping[str, Any]],
    pictures: Pictures,
    choices: Sequence[str] = (),
) -> Example:
    """A conversation that the model has to go on with, and the choices it may go on with.

    Args:
        where: The task, for messages.
        number: The sample's id.
        messages: Turns with `role` and `content`, text or a list of typed blocks.
        pictures: Where pictures that have no file are kept.
        choices: Candidate answers; empty for open ones.

    Raises:
        InputError: It shows what is no image and no text.
    """
    turns = tuple(
        Message(turn["role"], tuple(_parts(where, turn["content"], pictures))) for turn in messages
    )
    return unanswered(where, number, turns, choices)


def unanswered(
    where: str, number: str, turns: Sequence[Message], choices: Sequence[str] = ()
) -> Example:
    """A conversation with an answer that nobody reads, as `example_of` and lm-eval's tasks ask."""
    answer = choices[0] if choices else UNREAD
    messages = (*turns, Message("assistant", (TextPart(answer),)))
    return Example(number, messages, f"{where}:{number}", (answer,), tuple(choices))


def _parts(where: str, content: Any, pictures: Pictures) -> list[Part]:
    if isinstance(content, str):
        return [TextPart(content)]
    parts: list[Part] = []
    for block in content:
        if block["type"] == "text":
            parts.append(TextPart(block["text"]))
        elif block["type"] == "image":
            parts.append(ImagePart(pictures.keep(block["url"])))
        else:
            raise InputError(f"{where} shows {block['type']}; only images and text are shown here")
    return parts
