"""A short timing of an artifact beside its original."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from levit_deploy.bench.benchmark import pinned, processor_name, random_images
from levit_deploy.checkpoint import Checkpoint
from levit_deploy.targets.load import open_isolated
from levit_deploy.timing import Ratio, in_turns, ratio, seconds_of
from levit_deploy.verification.original import original_of

ROUNDS = 20


@dataclass(frozen=True, kw_only=True)
class BesideOriginal:
    """Sizes of the files, and median times for a batch of ``batch_size``, in seconds.

    ``original_bytes`` counts all files of the checkpoint. ``ratio`` is how many times as fast the
    artifact is. Its time is that of its own process, without the way there and back.
    """

    original_bytes: int
    artifact_bytes: int
    original_s: float
    artifact_s: float
    ratio: Ratio
    batch_size: int
    rounds: int
    processor: str


def time_beside_original(
    checkpoint: Checkpoint, path: Path, rounds: int = ROUNDS
) -> BesideOriginal:
    """Time an artifact and its original in turns, on one thread and one processor.

    Raises ArtifactError and BackendError as ``open_isolated`` does.
    """
    with pinned(1), open_isolated(path, threads=1) as artifact:
        original = original_of(checkpoint, artifact)
        batch = artifact.batch_size or 1
        images = random_images(checkpoint.config, batch)
        timers: dict[str, Callable[[], float]] = {
            "original": partial(seconds_of, partial(original.run, images["float32"])),
            "artifact": partial(artifact.seconds, images[artifact.interface.input]),
        }
        times = in_turns(timers, rounds=rounds)
    return BesideOriginal(
        original_bytes=sum(file.stat().st_size for file in checkpoint.files),
        artifact_bytes=path.stat().st_size,
        original_s=statistics.median(times["original"]),
        artifact_s=statistics.median(times["artifact"]),
        ratio=ratio(times["original"], times["artifact"]),
        batch_size=batch,
        rounds=rounds,
        processor=processor_name(),
    )
