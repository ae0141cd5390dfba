"""The whole job on a network really trained on real images, with nothing downloaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from statistics import median

import numpy as np
import torch

from levit_deploy.checkpoint import Checkpoint, read_checkpoint
from levit_deploy.demo.digits import LABELS, PREPROCESSING, held_out, save_scans
from levit_deploy.errors import OutputError
from levit_deploy.exporters import EXPORTERS
from levit_deploy.pipeline import Published, export, fuse
from levit_deploy.runtime.artifact import load_artifact
from levit_deploy.runtime.sessions import FloatArray
from levit_deploy.timing import rounds_side_by_side
from levit_deploy.verification import image_case

CHECKPOINT_NAME = "digits.pth"
HELD_OUT = "held-out"
SCANS = "scans"


@dataclass(frozen=True)
class Row:
    """One network of the closing comparison.

    ``top1`` is in percent of the held-out images; ``max_error`` and ``allowed`` are in logits, on
    the same images, and None for the original; ``milliseconds`` is for one image, on one thread.
    """

    name: str
    top1: float
    max_error: float | None
    allowed: float | None
    size_bytes: int
    milliseconds: float


def read_demo_checkpoint(directory: Path, *, force: bool = False) -> Checkpoint:
    """Copy the embedded checkpoint into ``directory``, made where it does not exist, and load it.

    The held-out scans are put beside it as pictures, for ``predict`` and ``evaluate``.

    Raises OutputError where that cannot be done, or another file has the checkpoint's name.
    """
    path = directory / CHECKPOINT_NAME
    embedded = resources.files(__package__).joinpath(CHECKPOINT_NAME).read_bytes()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.read_bytes() != embedded and not force:
            raise OutputError(
                f"{path} exists already and is not the demo's. Name another folder, or add --force "
                "to replace it."
            )
        path.write_bytes(embedded)
        save_scans(directory / SCANS)
    except OSError as error:
        raise OutputError(
            f"{path} could not be written: {error.strerror}. Name another folder."
        ) from error
    return read_checkpoint(path, preprocessing=PREPROCESSING, labels=LABELS)


def publish_all(checkpoint: Checkpoint, *, force: bool = False) -> Iterator[Published]:
    """Fuse and export beside the checkpoint, each file proven on the held-out images as well."""
    extra = (image_case(HELD_OUT, held_out().images),)
    stem = str(checkpoint.path.with_suffix(""))
    yield fuse(checkpoint, f"{stem}.fused.safetensors", force=force, extra=extra)
    for format, exporter in EXPORTERS.items():
        yield export(checkpoint, format, stem + exporter.suffix, force=force, extra=extra)


def compare(checkpoint: Checkpoint, published: Sequence[Published]) -> list[Row]:
    """Compare the artifacts with the original on the held-out images, and time all in turns."""
    digits = held_out()

    def original(images: FloatArray) -> FloatArray:
        with torch.inference_mode():
            return np.asarray(checkpoint.model(torch.from_numpy(images)).numpy())

    runs: dict[str, Callable[[FloatArray], FloatArray]] = {"original": original}
    for artifact in published:
        runs[artifact.path.name] = load_artifact(artifact.path, threads=1).run

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        calls = {name: partial(run, digits.images[:1]) for name, run in runs.items()}
        times = rounds_side_by_side(calls, rounds=200)
    finally:
        torch.set_num_threads(threads)

    cases = {
        artifact.path.name: next(c for c in artifact.verification.cases if c.name == HELD_OUT)
        for artifact in published
    }
    sizes = {"original": checkpoint.path.stat().st_size}
    sizes |= {artifact.path.name: artifact.size_bytes for artifact in published}
    return [
        Row(
            name=name,
            top1=float((run(digits.images).argmax(1) == digits.labels).mean() * 100),
            max_error=cases[name].max_error if name in cases else None,
            allowed=cases[name].budget.max_error if name in cases else None,
            size_bytes=sizes[name],
            milliseconds=median(times[name]) * 1000,
        )
        for name, run in runs.items()
    ]
