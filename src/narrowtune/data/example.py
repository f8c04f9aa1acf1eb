"""One training or test sample, whatever file format it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TextPart:
    """Words in a message."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image in a message, by its path; opened only when a batch is made."""

    path: Path


Part = TextPart | ImagePart


@dataclass(frozen=True, slots=True)
class Message:
    """One turn; `role` is `system`, `user` or `assistant`."""

    role: str
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The turn's words, images left out."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[Path, ...]:
        """The turn's images, in order."""
        return tuple(part.path for part in self.parts if isinstance(part, ImagePart))


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation that ends with the answer, where it came from and what counts as right.

    Attributes:
        id: The line number where the file gives none; differs from row to row in test files.
        messages: All turns; the last is the assistant's, the answer that is taught.
        source: `file:line`, for error messages.
        references: Accepted answers; the first is the taught one.
        choices: Candidate answers for scoring by likelihood; empty for open answers.
        cluster: What it shares with other samples (a passage, a patient), if the file says so;
            samples of the same images belong together without it.
    """

    id: str
    messages: tuple[Message, ...]
    source: str
    references: tuple[str, ...]
    choices: tuple[str, ...] = ()
    cluster: str = ""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The turns before the final answer."""
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        """The final assistant turn's words."""
        return self.messages[-1].text

    @property
    def images(self) -> tuple[Path, ...]:
        """All images of the conversation, in order."""
        return tuple(path for message in self.messages for path in message.images)
