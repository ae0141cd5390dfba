"""A Ray cluster: a running one, joined by its address, or one started on this machine."""

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
    """Join the cluster at ``address``, or start one with ``cpus``; yield each machine's CPU count.

    Raises BackendError if neither works.
    """
    verbose = logging.getLogger().isEnabledFor(logging.INFO)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would send usage data to its makers
    if not verbose:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    options: dict[str, Any] = {"address": address}
    if address is None:
        # anyone who reaches a cluster can run code on it: a random token, never shown, prevents it
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        options = {"address": "local", "num_cpus": cpus, "include_dashboard": False}
    elif _has_token():
        # otherwise Ray sends it to no cluster named by address; one without tokens ignores it
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
            f"No Ray cluster could be joined or started: {first_line(error)}. Expected one at "
            "--ray-address, with no token or the one in RAY_AUTH_TOKEN or ~/.ray/auth_token. "
            "Check the address and the token, or leave the address out to start one here."
        ) from error
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, asked_to_end)  # Ray replaces ours with its own
        yield [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()


def _has_token() -> bool:
    """Whether Ray would find a token for clusters."""
    named = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return named or Path("~/.ray/auth_token").expanduser().is_file()


@contextmanager
def _stderr_silenced() -> Iterator[None]:
    """Drop everything written to standard error, even by libraries that are not Python."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
