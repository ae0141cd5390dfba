"""The look of tables, and the console for them."""

import sys
from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def console() -> Console:
    """Standard output, wide enough for every table if it is not a terminal.

    File names are printed as they are: square brackets are not markup.
    """
    width = None if sys.stdout.isatty() else 100
    return Console(width=width, markup=False, emoji=False, highlight=False)


def print_line(console: Console, text: str | Text) -> None:
    """Print a text that the terminal may wrap, and a file must not."""
    console.print(text, soft_wrap=True)


def new_table(*columns: str, rows: Iterable[Iterable[str | Text]] = ()) -> Table:
    """A table with these columns and rows."""
    table = Table(*columns, box=box.SIMPLE, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table
