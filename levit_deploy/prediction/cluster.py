"""A Ray cluster: one that runs, joined by its address, or one of this machine, for a while."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from levit_deploy.errors import BackendError, first_line


@contextmanager
def cluster(address: str | None, cpus: int | None) -> Iterator[list[int]]:
    """Join the cluster at ``address``, or start one with ``cpus``; yield each machine's number.

    Raises BackendError where there is none to be had.
    """
    verbose = logging.getLogger().isEnabledFor(logging.INFO)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    if not verbose:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    options: dict[str, Any] = {"address": address}
    if address is None:
        # who reaches a cluster can run code on it: nobody does without a word known to none
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        options = {"address": "local", "num_cpus": cpus, "include_dashboard": False}
    elif _has_token():
        # Ray by itself shows it to no cluster named by address; one that asks for none ignores it
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray
    import ray.data

    if not verbose:
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    level = logging.INFO if verbose else logging.CRITICAL
    asked_to_end = signal.getsignal(signal.SIGTERM)
    try:
        with nullcontext() if verbose else _stderr_silenced():
            ray.init(**options, log_to_driver=verbose, logging_level=level)
    except Exception as error:  # of many kinds
        raise BackendError(
            f"No Ray cluster could be had: {first_line(error)}. Expected one at --ray-address that "
            "asks for no token, or for the one in RAY_AUTH_TOKEN or ~/.ray/auth_token, or leave to "
            "start one on this machine. Check the address and the token, or leave the address out."
        ) from error
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, asked_to_end)  # Ray has its own in place of ours
        yield [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()


def _has_token() -> bool:
    """Whether there is a token for clusters where Ray looks for one."""
    named = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return named or Path("~/.ray/auth_token").expanduser().is_file()


@contextmanager
def _stderr_silenced() -> Iterator[None]:
    """Drop what is written to standard error, also by a library that is not Python's."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
