"""Writes the generated pages of the documentation, or checks that they are up to date.

python docs/build.py                     # write all
python docs/build.py cli.md --check      # exit 1 if it differs from what the code says
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from families import families_page
from results import results_page
from typer.testing import CliRunner

COMMANDS = (
    "demo", "inspect", "select", "plan", "train", "run", "eval", "probe", "explain", "report",
    "frontier", "recommend", "delta show", "delta apply", "delta scale", "delta verify",
    "data check", "data prepare", "doctor",
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


PAGES = {"cli.md": command_line_page, "families.md": families_page, "results.md": results_page}


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "pages", nargs="*", choices=[[], *PAGES], metavar="PAGE", help="default: all"
    )
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    for name in asked.pages or PAGES:
        path, page = Path(__file__).parent / name, PAGES[name]()
        if not asked.check:
            path.write_text(page, encoding="utf-8")
            print(f"wrote {name}")
        elif not path.exists() or path.read_text(encoding="utf-8") != page:
            sys.exit(f"{name} is out of date: run `make docs`")


if __name__ == "__main__":
    main()
