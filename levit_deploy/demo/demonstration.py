"""The whole job on a network trained on real images, with no download."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from statistics import median

from levit_deploy.arrays import Images, Run
from levit_deploy.bench.benchmark import pinned
from levit_deploy.checkpoint import Checkpoint, read_checkpoint
from levit_deploy.demo.digits import LABELS, PREPROCESSING, held_out, scan_files
from levit_deploy.errors import OutputError
from levit_deploy.pipeline import Published, export, fuse
from levit_deploy.publish.file import reserved
from levit_deploy.targets.formats import TARGETS, Format
from levit_deploy.targets.fused import FUSED
from levit_deploy.targets.load import load_artifact
from levit_deploy.timing import rounds_side_by_side
from levit_deploy.verification.inputs import image_case
from levit_deploy.verification.original import original_of

CHECKPOINT_NAME = "digits.pth"
HELD_OUT = "held-out"
ORIGINAL = "original"
SCANS = "scans"
# Of the formats, those that most programs read, and that every installation writes.
SHOWN: tuple[Format, ...] = ("onnx", "torchscript")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network of the closing comparison.

    ``top1`` is in percent of the held-out images. ``max_error`` and ``allowed`` are in logits, on
    the same images, and None for the original. ``milliseconds`` is for one image, on one thread.
    """

    name: str
    top1: float
    max_error: float | None
    allowed: float | None
    size_bytes: int
    milliseconds: float


def read_demo_checkpoint(directory: Path, *, force: bool = False) -> Checkpoint:
    """Copy the embedded checkpoint into ``directory``, made if it does not exist, and load it.

    The held-out scans are put beside it as pictures, for ``predict`` and ``evaluate``. Raises
    OutputError if they cannot be written, or if another file has the name of one of these or of one
    that ``publish_all`` writes. Then nothing is written.
    """
    path, files = directory / CHECKPOINT_NAME, _inputs(directory)
    try:
        _refuse_taken([*_missing(files), *_artifacts(path).values()], force)
        for folder in {file.parent for file in files}:
            folder.mkdir(parents=True, exist_ok=True)
        for file, data in _missing(files).items():
            with reserved(file) as temporary:
                temporary.write_bytes(data)
                temporary.replace(file)
    except OSError as error:
        raise OutputError(
            f"{error.filename or directory} could not be written: {error.strerror}. Name another "
            "DIRECTORY."
        ) from error
    return read_checkpoint(path, activation="hardswish", preprocessing=PREPROCESSING, labels=LABELS)


def _missing(files: dict[Path, bytes]) -> dict[Path, bytes]:
    """The files that are not there, or have other contents."""
    return {
        path: data
        for path, data in files.items()
        if not path.is_file() or path.read_bytes() != data
    }


def _refuse_taken(paths: Iterable[Path], force: bool) -> None:
    """Raise OutputError if a path is taken, before anything is written."""
    for path in paths:
        if not os.path.lexists(path):
            continue
        if path.is_symlink() or not path.is_file():
            raise OutputError(
                f"{path} is a link, a folder or a device. The demo replaces files only. Name "
                "another DIRECTORY."
            )
        if not force:
            raise OutputError(
                f"{path} exists already. Name another DIRECTORY, or add --force to replace it."
            )


def destinations(directory: Path) -> list[Path]:
    """Every file that a demo in ``directory`` writes."""
    return [*_inputs(directory), *_artifacts(directory / CHECKPOINT_NAME).values()]


def _inputs(directory: Path) -> dict[Path, bytes]:
    """The checkpoint and the scans, by their paths."""
    embedded = resources.files(__package__).joinpath(CHECKPOINT_NAME).read_bytes()
    scans = {directory / SCANS / name: data for name, data in scan_files().items()}
    return {directory / CHECKPOINT_NAME: embedded} | scans


def _artifacts(checkpoint: Path) -> dict[str, Path]:
    """The files that ``publish_all`` writes beside the checkpoint, by target."""
    return {
        target.name: checkpoint.with_name(checkpoint.stem + target.suffix)
        for target in (FUSED, *(TARGETS[format] for format in SHOWN))
    }


def publish_all(checkpoint: Checkpoint, *, force: bool = False) -> Iterator[Published]:
    """Fuse and export beside the checkpoint, each file proven on the held-out images as well."""
    extra = (image_case(HELD_OUT, held_out().images),)
    paths = _artifacts(checkpoint.path)
    yield fuse(checkpoint, paths[FUSED.name], force=force, extra=extra)
    for format in SHOWN:
        yield export(checkpoint, format, paths[format], force=force, extra=extra)


def compare(checkpoint: Checkpoint, published: Sequence[Published]) -> list[Row]:
    """Compare the artifacts with the original on the held-out images, and time all in turns."""
    digits = held_out()
    runs = _runs(checkpoint, published)
    times = _times(runs, digits.images[:1])
    cases = {
        artifact.path.name: next(c for c in artifact.verification.cases if c.name == HELD_OUT)
        for artifact in published
    }
    sizes = {ORIGINAL: checkpoint.path.stat().st_size}
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


def _runs(checkpoint: Checkpoint, published: Sequence[Published]) -> dict[str, Run]:
    artifacts = [load_artifact(file.path, threads=1) for file in published]
    original = original_of(checkpoint, artifacts[0])
    return {ORIGINAL: original.run, **{artifact.path.name: artifact.run for artifact in artifacts}}


def _times(runs: dict[str, Run], image: Images) -> dict[str, list[float]]:
    """Seconds for one image on one thread, round by round."""
    calls = {name: partial(run, image) for name, run in runs.items()}
    with pinned(1):
        return rounds_side_by_side(calls, rounds=200)
