"""The memory of this process."""

import ctypes
import gc
from contextlib import suppress

_MMAP_THRESHOLD, _ARENA_MAX = -3, -8  # of mallopt, in malloc.h


def hold_little() -> None:
    """Have this process hold little memory that is free, at a small price in time.

    By default, each thread keeps a store of its own, with ever larger blocks. Threads share one,
    and blocks from 2 MiB go back to the system at once.
    """
    with suppress(OSError, AttributeError, TypeError):  # glibc alone has it
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_THRESHOLD, 2**21)


def give_back() -> None:
    """Give the system the memory that is free, most of which the C library would keep for later.

    Networks in graphs with circles are free once those are collected.
    """
    gc.collect()
    with suppress(OSError, AttributeError, TypeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)
