"""Text for people and programs: names made safe to print, and standard output."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from levit_deploy.errors import OutputError


def printable(message: str) -> str:
    """The message with control characters spelled out: a name must not drive the terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in as_utf8(message))


def as_utf8(name: str | Path) -> str:
    r"""A path, or a text with one, with \xff for a byte that is not UTF-8.

    Python has half a surrogate pair for such a byte, which few other programs read.
    """
    return re.sub("[\udc80-\udcff]", lambda half: f"\\x{ord(half[0]) - 0xDC00:02x}", str(name))


def counted(number: int, noun: str) -> str:
    """As in '1 picture' and '2 pictures'."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def rounded_up(number: float) -> str:
    """Two significant digits, rounded up, as in '0.73' and '1,100'."""
    if number <= 0:
        return "0"
    exponent = math.floor(math.log10(number))
    unit = 10.0 ** (exponent - 1)
    steps = math.ceil(round(number / unit, 6))  # 0.3 is not a little more than 0.3
    return f"{steps * unit:,.{max(0, 1 - exponent)}f}"


def listed(names: Sequence[str], most: int = 4) -> str:
    """The first names, as in 'a, b and 3 more'."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@contextmanager
def writing_output() -> Iterator[None]:
    """Go on when the reader of standard output has seen enough, as in ``| head``.

    Raises OutputError if it cannot be written for another reason, such as a full disk.
    """
    if sys.stdout is None:  # it was closed before Python started
        raise OutputError("Standard output is closed. Open it, or give -q and --json FILE.")
    try:
        yield
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # rich turns the first into the second
        write_no_more(sys.stdout)
    except OSError as error:
        write_no_more(sys.stdout)
        raise OutputError(
            f"Standard output could not be written: {error.strerror or error}. Send it elsewhere."
        ) from error


def write_no_more(stream: TextIO) -> None:
    """Drop the rest, or Python would try again at its end, fail, and exit with 120."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
