"""How a command ends: one paragraph and an exit code, whatever happens."""

from __future__ import annotations

import functools
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ParamSpec

import typer

from levit_deploy.errors import LevitDeployError, OutputError, first_line, is_out_of_memory

P = ParamSpec("P")


class _Terminated(BaseException):
    """The process was asked to end by a signal other than an interrupt."""


def reports_errors(command: Callable[P, None]) -> Callable[P, None]:
    """End a command with one paragraph and the exit code that ``errors`` gives it."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        verbose = bool(kwargs.get("verbose"))
        logging.basicConfig(
            level=logging.INFO if verbose else logging.WARNING,
            stream=sys.stderr,
            format="%(relativeCreated)6.0f ms  %(message)s",
            force=True,
        )
        try:
            with _ended_by_signals():
                command(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except BaseException as error:
            if verbose:
                logging.getLogger(__name__).exception("traceback")
            code, message = _ending(error)
            with suppress(OSError):  # whom to tell that? the exit code says what it can
                typer.echo(f"levit-deploy: {printable(message)}", err=True)
            raise typer.Exit(code) from None

    return wrapped


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Turn signals into an exception, so that temporary files are removed on the way out."""

    def end(*_: object) -> None:
        for number in before:  # a closing terminal sends more than one
            signal.signal(number, signal.SIG_IGN)
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    numbers = {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}  # the one not on Windows
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: old for number, old in before.items() if old is not signal.SIG_IGN}  # nohup
    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def printable(message: str) -> str:
    """The message without what names in a file could do to a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in as_utf8(message))


def as_utf8(name: str | Path) -> str:
    r"""A path, or what is said of one, with \xff for such a byte of a name that is no UTF-8.

    Python has half a surrogate pair in its place, which few other programs read.
    """
    return re.sub("[\udc80-\udcff]", lambda half: f"\\x{ord(half[0]) - 0xDC00:02x}", str(name))


def _ending(error: BaseException) -> tuple[int, str]:
    """The exit code and the paragraph for an exception."""
    if isinstance(error, LevitDeployError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt | _Terminated):
        return 130, "interrupted. No unproven file was left behind."
    if is_out_of_memory(error):
        return 6, "out of memory. Close other programs, or use a machine with more."
    return 70, (
        f"a bug of ours: {type(error).__name__}: {first_line(error)}. No unproven file was left "
        "behind. Please report it with the output of the same command and -v."
    )


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
