"""One way to run a network."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from levit_deploy.arrays import Images
from levit_deploy.choices import Input

AnyRun = Callable[[Images], object]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to run the network: ``run`` takes float32 (batch, channels, height, width).

    If ``input`` is 'uint8', it takes bytes instead, as in ``Interface``. ``size_bytes`` is the
    size of the file, if there is one, and ``load_s`` the time to load it. ``batch_size`` is None if
    any will do.
    """

    name: str
    runtime: str
    run: AnyRun
    size_bytes: int | None = None
    load_s: float | None = None
    batch_size: int | None = None
    input: Input = "float32"


def opened(
    name: str,
    runtime: str,
    data: bytes,
    open: Callable[[bytes], AnyRun],
    batch_size: int | None = None,
) -> Contender:
    """A file, with the time that a runtime takes to open it."""
    start = time.perf_counter()
    run = open(data)
    taken = time.perf_counter() - start
    return Contender(
        name=name,
        runtime=runtime,
        run=run,
        size_bytes=len(data),
        load_s=taken,
        batch_size=batch_size,
    )
