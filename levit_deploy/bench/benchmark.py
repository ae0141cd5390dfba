"""Time a network in every form, side by side."""

import math
import os
import platform
import statistics
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from levit_deploy.arrays import Images
from levit_deploy.bench.contender import Contender, Entry
from levit_deploy.bench.contenders import PLAIN, entries, given_artifact
from levit_deploy.bench.matmul import products_alone
from levit_deploy.choices import Input
from levit_deploy.config import LeViTConfig
from levit_deploy.cost import count_macs
from levit_deploy.errors import LevitDeployError, UsageError, first_line
from levit_deploy.interface import Interface
from levit_deploy.model import LeViT
from levit_deploy.timing import Ratio, in_turns, percentile, ratio, seconds_of

T = TypeVar("T")
Module = TypeVar("Module", bound=torch.nn.Module)

PRODUCTS = "matrix products alone"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One form of the network, on batches of one size.

    Times are in seconds a batch. ``ratio`` is against the plain export. ``of_matmul`` is the time
    of this machine's own float32 matrix products of the same shapes, as a share of the row's.
    """

    name: str
    runtime: str
    batch_size: int
    median_s: float
    p90_s: float
    images_per_s: float
    ratio: Ratio
    of_matmul: float
    size_bytes: int | None
    load_s: float | None


@dataclass(frozen=True)
class Untimed:
    """A form that could not be made or run here, and the reason, in sentences."""

    name: str
    runtime: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """All rows, and the conditions they were timed under.

    ``untimed`` are the forms without a row. ``gflops`` is the float32 rate of the matrix products
    alone, by batch size, two operations a multiply-accumulate.
    """

    network: str
    threads: int
    rounds: int
    processor: str
    rows: tuple[Row, ...]
    untimed: tuple[Untimed, ...]
    gflops: dict[int, float]


def benchmark(
    model: LeViT,
    config: LeViTConfig,
    *,
    network: str,
    head: str = "mean",
    artifacts: Sequence[Path] = (),
    batch_sizes: Sequence[int] = (1, 8),
    runtimes: Collection[str] | None = None,
    threads: int = 1,
    rounds: int = 50,
    progress: Callable[[str], object] = lambda _doing: None,
) -> Benchmark:
    """Time everything that ``entries`` names, and artifacts, in turns, on normal noise.

    Files that have a fixed batch get the first of ``batch_sizes``. ``runtimes``, some of RUNTIMES,
    limits the forms that are made, besides the plain export. Artifacts that take bytes get random
    ones, and normalise them within their time. ``progress`` is told each step before it begins.
    Raises ArtifactError, UsageError and BackendError as ``given_artifact`` does, and UsageError for
    more threads than processors.
    """
    rows: list[Row] = []
    failed: dict[Entry, str] = {}
    gflops = {}
    with pinned(threads), ExitStack() as children:
        given = [given_artifact(p, config, batch_sizes, threads, children) for p in artifacts]
        plain, *others = entries(
            model, config, head, batch_size=batch_sizes[0], threads=threads, children=children
        )
        if runtimes is not None:
            others = [entry for entry in others if entry.runtime.lower() in runtimes]
        ready: list[tuple[Entry, Contender]] = []
        for entry in (plain, *others, *given):
            progress(f"making {entry.name} for {entry.runtime}")
            if (contender := _attempt(entry, entry.make, failed)) is not None:
                ready.append((entry, contender))
        for size in batch_sizes:
            images = random_images(config, size)
            fitting = [
                (entry, contender)
                for entry, contender in ready
                if contender.batch_size in (None, size) and entry not in failed
            ]
            timers: dict[str, Callable[[], float]] = {
                str(i): partial(_seconds, entry, partial(c.seconds, images[c.input]), failed)
                for i, (entry, c) in enumerate(fitting)
            }
            timers[PRODUCTS] = partial(seconds_of, products_alone(config, size, threads))
            told = partial(progress, f"timing batches of {size}")
            times = in_turns(timers, rounds=rounds, progress=told)
            alone = times.pop(PRODUCTS)
            gflops[size] = 2 * size * count_macs(config) / statistics.median(alone) / 1e9
            rows += _rows(fitting, list(times.values()), alone, size)
    return Benchmark(
        network=network,
        threads=threads,
        rounds=rounds,
        processor=processor_name(),
        rows=tuple(rows),
        untimed=tuple(Untimed(e.name, e.runtime, reason) for e, reason in failed.items()),
        gflops=gflops,
    )


def random_images(config: LeViTConfig, n: int) -> dict[Input, Images]:
    """Noise to time a network on, the same every time, for each kind of input."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((n, *Interface("float32").image_shape(config)), dtype=np.float32)
    pixels = rng.integers(0, 256, (n, *Interface("uint8").image_shape(config)), dtype=np.uint8)
    return {"float32": normal, "uint8": pixels}


def random_network(config: LeViTConfig, seed: int = 0) -> LeViT:
    """A network without values that a simplifier could take advantage of.

    A fresh network has statistics of one and branches of zero, and a simplifier would drop the
    operators that multiply by one or add zero.
    """
    return randomised(LeViT(config), seed)


def randomised(model: Module, seed: int = 0) -> Module:
    """A network in evaluation mode with every number random, and none that overflows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point() and tensor.dim() == 1:
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.is_floating_point():
                tensor.normal_(std=tensor[0].numel() ** -0.5, generator=generator)
    return model.eval()


def _attempt(entry: Entry, work: Callable[[], T], failed: dict[Entry, str]) -> T | None:
    """The result of some work on an entry; None if this or an earlier one failed, for its reason.

    Nothing can be compared if the plain export fails, so its exceptions are raised.
    """
    if entry in failed:
        return None
    try:
        return work()
    except Exception as error:  # the runtimes' exceptions share no base class
        if (entry.name, entry.runtime) == (PLAIN, "onnxruntime"):
            raise
        ours = isinstance(error, LevitDeployError)
        failed[entry] = str(error) if ours else f"{type(error).__name__}: {first_line(error)}."
        return None


def _seconds(entry: Entry, timer: Callable[[], float], failed: dict[Entry, str]) -> float:
    taken = _attempt(entry, timer, failed)
    return math.nan if taken is None else taken


def _rows(
    ready: Sequence[tuple[Entry, Contender]],
    times: Sequence[list[float]],
    alone: list[float],
    size: int,
) -> Iterator[Row]:
    baseline = times[0]  # the plain export
    for (entry, contender), taken in zip(ready, times, strict=True):
        if any(map(math.isnan, taken)):
            continue  # it failed
        middle = statistics.median(taken)
        yield Row(
            name=entry.name,
            runtime=entry.runtime,
            batch_size=size,
            median_s=middle,
            p90_s=percentile(taken, 90),
            images_per_s=size / middle,
            ratio=ratio(baseline, taken),
            of_matmul=ratio(alone, taken).median,
            size_bytes=contender.size_bytes,
            load_s=contender.load_s,
        )


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Limit torch to so many threads, and the process, if the system can, to so many processors.

    Raises UsageError if the process may not use so many.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if allowed is not None and threads > len(allowed):
        raise UsageError(
            f"--threads {threads} is more than this process may use: {len(allowed)} processors. "
            "Give fewer."
        )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    if allowed is not None:
        os.sched_setaffinity(0, sorted(allowed)[-threads:])  # the first one serves the devices
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if allowed is not None:
            os.sched_setaffinity(0, allowed)


def processor_name() -> str:
    """The processor's name, and its instructions for low precision."""
    name, flags = platform.processor() or platform.machine(), set[str]()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
    except OSError:  # not Linux
        pass
    known = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    return f"{name} ({', '.join(flag for flag in known if flag in flags) or 'flags unknown'})"
