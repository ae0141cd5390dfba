"""Write a file so that its name only ever belongs to complete, proven bytes."""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from levit_deploy.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows has none, so abandoned files stay there
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".levit-deploy.tmp"


@contextmanager
def staged(
    destination: Path, *, sources: Sequence[Path], force: bool, option: str = "-o"
) -> Iterator[Path]:
    """Yield a temporary file beside ``destination``, and rename it if the block succeeds.

    The block fills the temporary file and proves it. If it raises, the temporary file is removed
    and ``destination`` stays as it was. The next run removes the file of a killed process.

    ``sources`` are never overwritten, and any other file only with ``force``. ``option`` names the
    destination on the command line. Raises OutputError, before the block if it is known by then.
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
    """Yield a new temporary file or folder beside ``destination``, and remove any rest of it after.

    A lock marks it as in use until then. Those of killed processes are removed before.
    """
    temporary = destination.with_name(f".{destination.name}.{os.getpid()}{SUFFIX}")
    with ExitStack() as cleanup:
        with _other_runs_waiting(destination.parent):
            _remove_abandoned(destination, folder)
            # registered before, as a signal may come as soon as it is there
            if folder:
                cleanup.callback(shutil.rmtree, temporary, ignore_errors=True)
            else:
                cleanup.callback(temporary.unlink, missing_ok=True)
            try:
                if folder:
                    temporary.mkdir()
                else:
                    temporary.touch(exist_ok=False)  # never through another process's link
            except FileExistsError:
                cleanup.pop_all()  # it belongs to another process
                raise
            lock = os.open(temporary, os.O_RDONLY)
            cleanup.callback(os.close, lock)
            lock_or_fail(lock)
        yield temporary


@contextmanager
def _other_runs_waiting(folder: Path) -> Iterator[None]:
    """Make other runs wait, so that none removes a file as abandoned before it is locked."""
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
    """Remove the temporary files or folders of killed processes, and no others."""
    names = re.compile(rf"\.{re.escape(destination.name)}\.[0-9]+{re.escape(SUFFIX)}")
    for entry in os.scandir(destination.parent):
        is_one = entry.is_dir if folder else entry.is_file
        if not names.fullmatch(entry.name) or not is_one(follow_symlinks=False):
            continue
        with suppress(OSError):  # it is locked, or already gone
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
    """Lock a file until it is closed or the process ends. Raises OSError if another has it."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def refuse_bad_destination(
    destination: Path, sources: Sequence[Path], force: bool, option: str = "-o"
) -> None:
    """Raise OutputError if ``staged`` cannot or must not write there.

    ``option`` names the destination on the command line.
    """
    with told_as_output_error(destination, option):
        if not destination.parent.is_dir():
            raise OutputError(
                f"The folder {destination.parent} does not exist, so {destination.name} cannot be "
                f"written there. Create it, or name another with {option}."
            )
        if any(_same(destination, source) for source in sources):
            raise OutputError(
                f"{destination} is one of this command's own files, such as the checkpoint. Those "
                f"are never overwritten. Name another file with {option}."
            )
        if not (destination.exists() or destination.is_symlink()):
            return
        if destination.is_dir():
            raise OutputError(f"{destination} is a folder. Name a file with {option}.")
        if destination.is_symlink() or not destination.is_file():
            raise OutputError(
                f"{destination} is a link or a device, which a file would replace. Name the file "
                f"itself with {option}."
            )
        if not force:
            raise OutputError(
                f"{destination} exists already. Add --force to replace it, or name another file "
                f"with {option}."
            )


def remove_earlier(destination: Path, option: str) -> None:
    """Remove a file before it is replaced, so that it does not outlive a failure.

    Call ``refuse_bad_destination`` first. Raises OutputError.
    """
    with told_as_output_error(destination, option):
        destination.unlink(missing_ok=True)


def _same(one: Path, two: Path) -> bool:
    """Whether two paths are one file, by name or by links to it."""
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
            f"{destination} could not be written: {error.strerror or error}. Nothing of it is left "
            f"behind. Name another place with {option}."
        ) from error


def sync(path: Path) -> None:
    """Make the operating system write a file, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
