"""Read regular files only, as a pipe may never start and a device may never end."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file, or a link to one, to read bytes. Raises OSError for anything else.

    The kind is checked after opening, so nothing can replace the file in between.
    """
    return open(path, "rb", opener=_opener)


def read_regular(path: Path, limit: int | None = None) -> bytes:
    """Read the bytes of a regular file, or of a link to one. Raises OSError for anything else.

    ``limit`` is the largest size allowed, in bytes. Raises OSError for a larger file.
    """
    with open_regular(path) as file:
        if limit is None:
            return file.read()
        data = file.read(limit + 1)  # the stated size may be 0, as in /proc
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit} bytes")
    return data


def _opener(path: str, flags: int) -> int:
    # without O_NONBLOCK, which Windows lacks, opening a pipe waits for a writer
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is not a regular file, but a directory, a pipe or a device")
