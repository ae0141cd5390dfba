"""Text for people and programs: names made safe to print, and standard output."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from levit_deploy.errors import OutputError


def printable(message: str) -> str:
    """The message without what names in a file could do to a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in as_utf8(message))


def as_utf8(name: str | Path) -> str:
    r"""A path, or what is said of one, with \xff for such a byte of a name that is no UTF-8.

    Python has half a surrogate pair in its place, which few other programs read.
    """
    return re.sub("[\udc80-\udcff]", lambda half: f"\\x{ord(half[0]) - 0xDC00:02x}", str(name))


@contextmanager
def writing_output() -> Iterator[None]:
    """Go on when whoever reads our output has seen enough, as in ``| head``.

    Raises OutputError where it cannot be written for another reason, such as a full disk.
    """
    if sys.stdout is None:  # what Python has for one that was closed before it started
        raise OutputError("Standard output is closed. Open it, or give -q and --json FILE.")
    try:
        yield
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # rich turns the first into the second
        _write_no_more()
    except OSError as error:
        _write_no_more()
        raise OutputError(
            f"Standard output could not be written: {error.strerror or error}. Send it elsewhere."
        ) from error


def _write_no_more() -> None:
    """Drop what is still to be written, or the end of the process would try again and fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
