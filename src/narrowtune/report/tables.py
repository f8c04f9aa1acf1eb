"""The look that all tables in a terminal share."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text


def plain_table(title: str, first: str) -> Table:
    """An empty table with its title and first column, readable when piped."""
    heading = Text(title, style="bold")
    table = Table(
        title=heading, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    table.add_column(first, overflow="fold", min_width=10)
    return table
