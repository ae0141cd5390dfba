"""Do a little of the next work while the caller is busy with the last."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(
    function: Callable[[T], R], items: Iterable[T], *, threads: int, ahead: int
) -> Generator[R, None, None]:
    """Yield ``function`` of each item in order, computed by ``threads`` threads.

    At most ``ahead`` results are done or being computed before they are asked for. The items are
    taken as slowly, so memory does not grow with their number. An error in ``function`` comes out
    in its place, an error in ``items`` at once. Leaving early waits for the results being
    computed.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
