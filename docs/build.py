"""Writes the generated pages of the documentation, or checks that they are up to date.

python docs/build.py            # write docs/cli.md
python docs/build.py --check    # exit 1 if it differs from what the code says
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from typer.testing import CliRunner

PAGE = Path(__file__).parent / "cli.md"
COMMANDS = (
    "demo", "inspect", "select", "plan", "train", "run", "eval", "report",
    "delta show", "delta apply", "delta scale", "delta verify", "data check", "doctor",
)  # fmt: skip
INTRODUCTION = """# Command line

Generated from the commands' own help by `make docs`; do not edit.

Exit codes: 0 fine; 1 the input is wrong (one message, no traceback; `narrowtune --traceback ...`
shows where it arose); 2 usage; 3 it ran and a check failed; 130 stopped by Ctrl-C, resumable.
`--json` prints machine-readable output on stdout; progress and notes go to stderr.
"""


def command_line_page() -> str:
    """The help of every command, as Markdown."""
    os.environ |= {"COLUMNS": "96", "NO_COLOR": "1", "TERM": "dumb"}
    from narrowtune.cli import app

    parts = [INTRODUCTION]
    for command in COMMANDS:
        shown = CliRunner().invoke(app, [*command.split(), "--help"], prog_name="narrowtune")
        text = "\n".join(line.rstrip() for line in shown.output.strip().splitlines())
        parts.append(f"## `narrowtune {command}`\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    page = command_line_page()
    if not parser.parse_args().check:
        PAGE.write_text(page, encoding="utf-8")
        print(f"wrote {PAGE.name}")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page:
        sys.exit(f"{PAGE.name} is out of date: run `make docs`")


if __name__ == "__main__":
    main()
