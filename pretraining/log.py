"""A log that goes to the screen and to a file."""

from __future__ import annotations

from pathlib import Path


class Log:
    """Prints lines and appends them to a file at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, line: str) -> None:
        print(line, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
