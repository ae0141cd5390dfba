"""Write a folder so that its name only ever belongs to a whole one, the old or the new."""

import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from levit_deploy.errors import OutputError
from levit_deploy.publish.file import reserved, sync, told_as_output_error

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux, <fcntl.h> and <linux/fs.h>


@contextmanager
def staged_folder(
    destination: Path, *, is_ours: Callable[[Path], bool], force: bool, option: str = "-o"
) -> Iterator[Path]:
    """Yield a temporary folder beside ``destination``, and rename it if the block succeeds.

    The block fills the temporary folder and proves its contents. If it raises, the temporary folder
    is removed and ``destination`` stays as it was. The next run removes the folder of a killed
    process.

    An empty folder is replaced, any other only with ``force`` and if ``is_ours`` returns True for
    it. ``option`` names the destination on the command line. Raises OutputError, before the block
    if it is known by then.
    """
    refuse_bad_folder(destination, is_ours, force, option)
    with (
        told_as_output_error(destination, option),
        reserved(destination, folder=True) as temporary,
    ):
        yield temporary
        for entry in temporary.iterdir():
            sync(entry)
        sync(temporary)
        refuse_bad_folder(destination, is_ours, force, option)
        _put_in_place(temporary, destination)
    with suppress(OSError):  # some file systems cannot sync a folder; it is in place
        sync(destination.parent)


def refuse_bad_folder(
    destination: Path, is_ours: Callable[[Path], bool], force: bool, option: str = "-o"
) -> None:
    """Raise OutputError if ``staged_folder`` cannot or must not write there."""
    with told_as_output_error(destination, option):
        if not destination.parent.is_dir():
            raise OutputError(
                f"The folder {destination.parent} does not exist, so {destination.name} cannot be "
                f"made there. Create it, or name another with {option}."
            )
        if not (destination.exists() or destination.is_symlink()):
            return
        if destination.is_symlink() or not destination.is_dir():
            raise OutputError(
                f"{destination} is not a folder, but a file or a link. Expected a folder, or a new "
                f"name for one. Name another with {option}."
            )
        if not any(destination.iterdir()):
            return
        if not is_ours(destination):
            raise OutputError(
                f"{destination} is a folder whose contents levit-deploy did not write, so it is "
                f"left alone. Expected a new name, an empty folder, or one that it wrote. Name "
                f"another with {option}."
            )
        if not force:
            raise OutputError(
                f"{destination} exists already. Add --force to replace it, or name another folder "
                f"with {option}."
            )


def _put_in_place(temporary: Path, destination: Path) -> None:
    """Rename a folder. A full one with its name gets the temporary name, an empty one goes."""
    try:
        temporary.rename(destination)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    else:
        return
    if _exchange(temporary, destination):
        return
    # This takes two steps here. If killed in between, the old folder is whole under this name.
    old = destination.with_name(f".{destination.name}.{os.getpid()}.old")
    destination.rename(old)
    try:
        temporary.rename(destination)
    except OSError:
        old.rename(destination)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step. Returns False if the system or the file system cannot."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):  # glibc before 2.28, musl
        return False
    names = os.fsencode(one), os.fsencode(other)
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    if (code := ctypes.get_errno()) not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(code, os.strerror(code))
    return False
