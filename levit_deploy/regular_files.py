"""Read only what ends: a pipe would be waited for, a device may never stop."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file, or a link to one, to read its bytes; OSError where it is anything else.

    It is looked at once it is open, so that nothing can take its place in between.
    """
    return open(path, "rb", opener=_opener)


def read_regular(path: Path, limit: int | None = None) -> bytes:
    """The bytes of a regular file, or of a link to one; OSError where it is anything else.

    ``limit`` is the largest size to read, in bytes; OSError where there is more.
    """
    with open_regular(path) as file:
        if limit is None:
            return file.read()
        data = file.read(limit + 1)  # a file may say that it has no size, as those of /proc do
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit} bytes")
    return data


def _opener(path: str, flags: int) -> int:
    # without the flag, which Windows lacks, opening a pipe would wait for who writes into it
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is no regular file, but a directory, a pipe or a device")
