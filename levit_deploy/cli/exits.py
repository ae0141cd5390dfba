"""How a command ends: with one paragraph and an exit code, whatever happens.

An error of ours has its exit code in ``errors``. The other ways to end are here: by a signal, for
lack of memory, and by a bug.
"""

import functools
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec

import typer

from levit_deploy.errors import BackendError, LevitDeployError, first_line, is_out_of_memory
from levit_deploy.text import printable, write_no_more

P = ParamSpec("P")

INTERRUPTED = 130  # as a shell reports a program that an interrupt ended
BUG = LevitDeployError.exit_code


class _Terminated(BaseException):
    """The process was asked to end by a signal other than an interrupt."""


def reports_errors(command: Callable[P, None]) -> Callable[P, None]:
    """End a command that raises with one paragraph on standard error and its exit code."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        verbose = bool(kwargs.get("verbose"))
        _log_to_standard_error(verbose)
        try:
            with _ended_by_signals():
                command(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except BaseException as error:
            if verbose:
                logging.getLogger(__name__).exception("traceback")
            code, message = _ending(error)
            try:
                typer.echo(f"levit-deploy: {printable(message)}", err=True)
            except OSError:  # nobody can read the message then, but the exit code still tells
                write_no_more(sys.stderr)
            raise typer.Exit(code) from None

    return wrapped


def _ending(error: BaseException) -> tuple[int, str]:
    """The exit code and the paragraph for an exception."""
    if isinstance(error, LevitDeployError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt | _Terminated):
        return INTERRUPTED, "interrupted. No unproven file was left behind."
    if is_out_of_memory(error):
        return (
            BackendError.exit_code,
            "out of memory. Close other programs, or use a machine with more.",
        )
    return BUG, (
        f"this is a bug: {type(error).__name__}: {first_line(error)}. No unproven file was left "
        "behind. Please report it with the output of the same command and -v."
    )


def _log_to_standard_error(verbose: bool) -> None:
    """Show warnings, and each step if verbose, with the time since the start."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(relativeCreated)6.0f ms  %(message)s"))
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, handlers=[handler], force=True)


class _Printable(logging.Formatter):
    """Log messages with control characters spelled out."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return printable(super().formatMessage(record))


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
    numbers = {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}  # Windows has no SIGHUP
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: old for number, old in before.items() if old is not signal.SIG_IGN}  # nohup
    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
