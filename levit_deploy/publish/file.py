"""Write a file so that its name only ever stands for complete, proven bytes."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from levit_deploy.errors import OutputError

try:
    import fcntl
except ImportError:  # not on Windows, where abandoned files stay
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".levit-deploy.tmp"


@contextmanager
def staged(
    destination: Path, *, sources: Sequence[Path], force: bool, option: str = "-o"
) -> Iterator[Path]:
    """Yield a temporary file beside ``destination``; rename it there when the block succeeds.

    The block fills the temporary file and proves it. Where the block raises, the temporary file is
    removed and ``destination`` is as it was. One that a killed process left is removed by the next.
    ``sources`` are never overwritten; any other file only with ``force``. ``option`` is the one
    that names the destination. Raises OutputError, before the block where it can be known by then.
    """
    refuse_bad_destination(destination, sources, force, option)
    with told_as_output_error(destination, option), reserved(destination) as temporary:
        yield temporary
        sync(temporary)
        refuse_bad_destination(destination, sources, force, option)
        temporary.replace(destination)
    with suppress(OSError):  # some file systems cannot sync a folder; the file is in place
        sync(destination.parent)


@contextmanager
def reserved(destination: Path, *, folder: bool = False) -> Iterator[Path]:
    """Yield a new temporary file, or folder, beside ``destination``; what is left of it is removed.

    It is locked until then, as one that somebody is at work on. Those that killed processes left
    are removed before.
    """
    temporary = destination.with_name(f".{destination.name}.{os.getpid()}{SUFFIX}")
    with ExitStack() as cleanup:
        with _no_other_run_at_it(destination.parent):
            _remove_abandoned(destination, folder)
            if folder:
                temporary.mkdir()
                cleanup.callback(shutil.rmtree, temporary, ignore_errors=True)
            else:
                temporary.touch(exist_ok=False)  # never through somebody else's link
                cleanup.callback(temporary.unlink, missing_ok=True)
            lock = os.open(temporary, os.O_RDONLY)
            cleanup.callback(os.close, lock)
            lock_or_fail(lock)
        yield temporary


@contextmanager
def _no_other_run_at_it(folder: Path) -> Iterator[None]:
    """Make other runs wait, so that none takes a file for abandoned before it is locked."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_abandoned(destination: Path, folder: bool) -> None:
    """Remove the temporary files, or folders, of processes that were killed, and of no others."""
    names = re.compile(rf"\.{re.escape(destination.name)}\.[0-9]+{re.escape(SUFFIX)}")
    for entry in os.scandir(destination.parent):
        is_one = entry.is_dir if folder else entry.is_file
        if not names.fullmatch(entry.name) or not is_one(follow_symlinks=False):
            continue
        with suppress(OSError):  # locked, or gone by now
            descriptor = os.open(entry.path, os.O_RDONLY)
            try:
                lock_or_fail(descriptor)
                if folder:
                    shutil.rmtree(entry.path)
                else:
                    Path(entry.path).unlink()
            finally:
                os.close(descriptor)


def lock_or_fail(descriptor: int) -> None:
    """Lock a file until it is closed or the process ends; OSError where another one has."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def refuse_bad_destination(
    destination: Path, sources: Sequence[Path], force: bool, option: str = "-o"
) -> None:
    """Raise OutputError where ``staged`` could not, or must not, write.

    ``option`` is the one that names the destination.
    """
    with told_as_output_error(destination, option):
        if not destination.parent.is_dir():
            raise OutputError(
                f"The folder {destination.parent} does not exist, so {destination.name} cannot be "
                f"written there. Create it, or choose another with {option}."
            )
        if any(_same(destination, source) for source in sources):
            raise OutputError(
                f"{destination} is one of this command's own files, such as the checkpoint, which "
                f"is never overwritten. Name another with {option}."
            )
        if not (destination.exists() or destination.is_symlink()):
            return
        if destination.is_dir():
            raise OutputError(f"{destination} is a folder. Name a file with {option}.")
        if destination.is_symlink() or not destination.is_file():
            raise OutputError(
                f"{destination} is a link or a device, and would be replaced by a file. Name the "
                f"file itself with {option}."
            )
        if not force:
            raise OutputError(
                f"{destination} exists already. Add --force to replace it, or name another file "
                f"with {option}."
            )


def remove_earlier(destination: Path, option: str) -> None:
    """Remove a file that is to be replaced, and must not outlive a failure to.

    Call ``refuse_bad_destination`` before. Raises OutputError.
    """
    with told_as_output_error(destination, option):
        destination.unlink(missing_ok=True)


def _same(one: Path, two: Path) -> bool:
    """Whether two paths are one file, by name or, for links to it, by where it stands."""
    if one.resolve() == two.resolve():
        return True
    return one.exists() and two.exists() and one.samefile(two)


@contextmanager
def told_as_output_error(destination: Path, option: str) -> Iterator[None]:
    """Turn an OSError into an OutputError that names the destination and the option for it."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{destination} could not be written: {error.strerror or error}. Nothing of it was "
            f"left behind. Choose another place with {option}."
        ) from error


def sync(path: Path) -> None:
    """Have the operating system put a file, or a folder's entries, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
