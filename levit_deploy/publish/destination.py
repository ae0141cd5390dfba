"""Where an artifact goes: a file, a folder as Optimum loads one, or a model of Triton's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from levit_deploy.checkpoint import Checkpoint
from levit_deploy.errors import UsageError
from levit_deploy.interface import DEFAULT, Interface
from levit_deploy.publish.file import staged
from levit_deploy.publish.optimum import MODEL, hub_folder, staged_hub_folder
from levit_deploy.publish.triton import TritonModel, staged_model, write_config
from levit_deploy.runtime.artifact import Artifact

Destination = str | Path | TritonModel


@dataclass(frozen=True)
class Place:
    """Where a file will stand; ``stage`` yields a temporary path for it and brings it there.

    ``complete`` writes what goes beside an artifact, once it is proven. The stage raises
    OutputError where nothing can be written.
    """

    path: Path
    stage: AbstractContextManager[Path]
    complete: Callable[[Artifact], None] = lambda _artifact: None


def place_of(
    output: Destination, checkpoint: Checkpoint, format: str, interface: Interface, *, force: bool
) -> Place:
    """Where an artifact goes that is named so; ``format`` is a key of ``EXPORTERS``.

    Raises UsageError where that is a folder as Optimum loads one, which is no place for it.
    """
    if isinstance(output, TritonModel):
        stage = staged_model(output, format, force=force)
        return Place(output.file(format), stage, write_config)
    folder = hub_folder(output)
    if folder is None:
        return file_place(output, checkpoint, force=force)
    if format != "onnx":
        raise UsageError(
            f"-o names a folder, {folder}, as Optimum loads one, which reads ONNX. Choose --format "
            "onnx, or name a file with -o."
        )
    if interface != DEFAULT:
        raise UsageError(
            f"-o names a folder, {folder}, as Optimum loads one, which gives normalised images and "
            "takes what comes out for logits. Leave --input-type and --output-type out, or name a "
            "file with -o."
        )
    return Place(folder / MODEL, staged_hub_folder(folder, checkpoint, force=force))


def file_place(output: str | Path, checkpoint: Checkpoint, *, force: bool) -> Place:
    """Where a file goes that is a file whatever its name ends with."""
    return Place(Path(output), staged(Path(output), sources=checkpoint.files, force=force))
