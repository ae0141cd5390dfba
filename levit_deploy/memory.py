"""The memory of this process."""

import ctypes
import gc
from contextlib import suppress

_ARENA_MAX = -8  # of mallopt, in malloc.h


def share_freed() -> None:
    """Have threads use what others freed; by default, each keeps a store of its own."""
    with suppress(OSError, AttributeError, TypeError):  # glibc alone has it
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)


def keep_imported() -> None:
    """Have no collection look at what is there by now: modules, which stay anyhow.

    Call it when a command has imported what it needs. Each later collection takes less time then.
    """
    gc.freeze()


def collect_rarely() -> None:
    """Collect garbage less often: to import torch takes 5 to 10 % less then."""
    gc.set_threshold(70_000)


def give_back(*, cycles: bool = False) -> None:
    """Give the system the memory that is free, most of which the C library would keep for later.

    Networks in graphs with ``cycles`` are free once those are collected, which takes a tenth of a
    second.
    """
    if cycles:
        gc.collect()
    with suppress(OSError, AttributeError, TypeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)
