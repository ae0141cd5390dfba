"""One way to run a network, before and after it is made."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from levit_deploy.arrays import Images
from levit_deploy.choices import Input
from levit_deploy.runtime.artifact import Artifact
from levit_deploy.targets.load import open_data
from levit_deploy.timing import seconds_of

AnyRun = Callable[[Images], object]
Making = Callable[[], bytes]  # a file


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to run the network, ready to be timed.

    ``seconds`` runs images once, float32 (batch, channels, height, width), and returns the time. If
    ``input`` is 'uint8', it takes bytes instead, as in ``Interface``. ``size_bytes`` is the size of
    the file, if there is one, and ``load_s`` the time to load it. ``batch_size`` is None if any
    will do.
    """

    seconds: Callable[[Images], float]
    size_bytes: int | None = None
    load_s: float | None = None
    batch_size: int | None = None
    input: Input = "float32"


@dataclass(frozen=True)
class Entry:
    """A contender that is still to be made, which may take a minute, and fail."""

    name: str
    runtime: str
    make: Callable[[], Contender]


def here(run: AnyRun) -> Contender:
    """A network that runs in this process."""
    return Contender(seconds=lambda images: seconds_of(partial(run, images)))


def opened(
    file: Making, open: Callable[[bytes], AnyRun], batch_size: int | None = None
) -> Contender:
    """A file that a runtime opens in this process."""
    data = file()
    start = time.perf_counter()
    run = open(data)
    taken = time.perf_counter() - start
    return replace(here(run), size_bytes=len(data), load_s=taken, batch_size=batch_size)


def in_child(file: Making, children: ExitStack, threads: int) -> Contender:
    """A file that a child process opens and times, until ``children`` end.

    It has the processors of this thread, and waits for its turn without using them.
    """
    data = file()
    return of_artifact(children.enter_context(open_data(data, threads=threads)), len(data))


def of_artifact(artifact: Artifact, size_bytes: int) -> Contender:
    """An artifact that was opened, in any process."""
    return Contender(
        seconds=artifact.seconds,
        size_bytes=size_bytes,
        load_s=artifact.load_s,
        batch_size=artifact.batch_size,
        input=artifact.interface.input,
    )
