"""A short timing of an artifact beside its original."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from levit_deploy.bench import pinned, processor_name
from levit_deploy.checkpoint import Checkpoint
from levit_deploy.pipeline import original
from levit_deploy.runtime.isolated import open_isolated
from levit_deploy.runtime.sessions import Images
from levit_deploy.timing import Ratio, ratio, rounds_side_by_side

ROUNDS = 20


@dataclass(frozen=True)
class BesideOriginal:
    """Sizes of the files, and median times for a batch of ``batch_size``, in seconds.

    ``original_bytes`` is all that was read of the checkpoint; ``ratio`` is how many times as fast
    the artifact is. Its time includes the way to its process and back.
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
    config = checkpoint.config
    with pinned(1), open_isolated(path, threads=1) as artifact:
        model, _ = original(checkpoint, artifact)
        batch = artifact.batch_size or 1
        rng = np.random.default_rng(0)
        noise = rng.standard_normal(
            (batch, config.in_channels, *config.image_size), dtype=np.float32
        )
        given: Images = noise
        if artifact.interface.input == "uint8":
            given = rng.integers(0, 256, (batch, *artifact.image_shape), dtype=np.uint8)

        def run_original() -> None:
            with torch.inference_mode():
                model(torch.from_numpy(noise))

        times = rounds_side_by_side(
            {"original": run_original, "artifact": partial(artifact.run, given)}, rounds=rounds
        )
    return BesideOriginal(
        sum(file.stat().st_size for file in checkpoint.files),
        path.stat().st_size,
        statistics.median(times["original"]),
        statistics.median(times["artifact"]),
        ratio(times["original"], times["artifact"]),
        batch,
        rounds,
        processor_name(),
    )
