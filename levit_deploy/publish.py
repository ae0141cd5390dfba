"""Write a file so that its name only ever stands for complete, proven bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from levit_deploy.errors import OutputError


@contextmanager
def staged(destination: Path, *, source: Path, force: bool) -> Iterator[Path]:
    """Yield a temporary path beside ``destination``; rename it there when the block succeeds.

    The block writes the temporary file and proves it. Where the block raises, the temporary file
    is removed and ``destination`` is as it was. ``source`` is never overwritten; any other file
    only with ``force``. Raises OutputError, before the block where it can be known by then.
    """
    refuse_bad_destination(destination, source, force)
    temporary = destination.with_name(f".{destination.name}.{os.getpid()}.levit-deploy.tmp")
    try:
        yield temporary
        _sync(temporary)
        refuse_bad_destination(destination, source, force)
        temporary.replace(destination)
        _sync(destination.parent)
    except OSError as error:
        raise OutputError(
            f"{destination} could not be written: {error.strerror or error}. Nothing was left "
            "behind. Choose another place with -o."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def refuse_bad_destination(destination: Path, source: Path, force: bool) -> None:
    """Raise OutputError where ``staged`` could not, or must not, write."""
    if not destination.parent.is_dir():
        raise OutputError(
            f"The folder {destination.parent} does not exist, so {destination.name} cannot be "
            "written there. Create it, or choose another with -o."
        )
    if destination.is_dir():
        raise OutputError(f"{destination} is a folder. Name a file with -o.")
    if destination.exists():
        if source.exists() and destination.samefile(source):
            raise OutputError(
                f"{destination} is the checkpoint itself, which is never overwritten. Name another "
                "file with -o."
            )
        if not force:
            raise OutputError(
                f"{destination} exists already. Add --force to replace it, or name another file "
                "with -o."
            )


def _sync(path: Path) -> None:
    """Have the operating system put a file, or a folder's entries, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
