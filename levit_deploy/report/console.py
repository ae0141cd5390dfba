"""The look of tables, and the console for them."""

from __future__ import annotations

import sys

from rich import box
from rich.console import Console
from rich.table import Table


def console() -> Console:
    """Standard output, wide enough for every table if it is not a terminal.

    File names are printed as they are: square brackets are not markup.
    """
    width = None if sys.stdout.isatty() else 100
    return Console(width=width, markup=False, emoji=False, highlight=False)


def new_table(*columns: str) -> Table:
    """An empty table with these columns."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table
