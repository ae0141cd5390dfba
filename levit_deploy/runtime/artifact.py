"""A loaded artifact: one interface to every format, from images to its answers."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from levit_deploy.arrays import FloatArray, Images, Run, rows
from levit_deploy.config import LeViTConfig
from levit_deploy.errors import ArtifactError
from levit_deploy.interface import Interface
from levit_deploy.regular_files import open_regular
from levit_deploy.timing import seconds_of

MOST_BYTES = 2**31  # also the most that protobuf, and so ONNX, can hold in one file


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A loaded artifact.

    ``run`` maps images, float32 (batch, channels, height, width) or uint8 (batch, height, width,
    channels), to float32 (batch, classes) or (batch, width). Feature maps come flattened, side by
    side. ``interface`` tells which. ``runtime`` is the one that runs it. ``batch_size`` is None if
    the batch is dynamic. ``image_shape`` is that of one image. ``values`` gives every value
    computed on the way, unnamed, each with the batch as its outer dimension. ``remarks`` are
    sentences about a file of another tool, which belong into a proof of it. If another process runs
    it, ``load_s`` is the time that opening it took there, and ``timer`` is its ``seconds``.
    """

    path: Path
    format: str
    runtime: str
    sha256: str
    metadata: dict[str, str]
    batch_size: int | None
    image_shape: tuple[int, ...]
    run: Run
    values: Callable[[Images], Iterable[FloatArray]]
    remarks: tuple[str, ...] = ()
    load_s: float | None = None
    timer: Callable[[Images], float] | None = None

    @property
    def interface(self) -> Interface:
        """Its input and output by its metadata; loading has compared them with the file."""
        return Interface.from_metadata(self.metadata)

    @property
    def maps(self) -> dict[str, tuple[int, ...]]:
        """The shape of each feature map of an image, by its metadata; empty if it gives none."""
        return claimed_maps(self.path, self.metadata)

    def seconds(self, images: Images) -> float:
        """Run the images, and return the seconds that it took in the process that runs them.

        Another process is sent an array once, and times it again if it is asked for the same one.
        """
        return self.timer(images) if self.timer else seconds_of(partial(self.run, images))


class Loader(Protocol):
    """A function that opens an artifact, at the top of a module: a child process imports it.

    ``data`` is the content of the file at ``path``. ``threads`` limits the runtime. ``literal``
    asks it to compute node by node, with nothing fused. Raises ArtifactError if it cannot.
    """

    __module__: str
    __qualname__: str

    def __call__(self, path: Path, data: bytes, threads: int | None, literal: bool) -> Artifact: ...


def read_artifact(path: Path, size: int = -1) -> bytes:
    """Return the first bytes of a file, or all; raise ArtifactError if they cannot be read.

    No file of more than MOST_BYTES is read.
    """
    try:
        with open_regular(path) as file:
            if (present := os.fstat(file.fileno()).st_size) > MOST_BYTES:
                raise ArtifactError(
                    f"{path} has {present:,} bytes. Expected at most {MOST_BYTES:,}, ten times the "
                    "largest LeViT that was published. Check the path."
                )
            return file.read(size)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}. Check the path.") from error


def claimed_interface(path: Path, metadata: dict[str, str]) -> Interface:
    """Return the interface in a file's metadata; raise ArtifactError if it is none we know."""
    try:
        return Interface.from_metadata(metadata)
    except ValueError as error:
        raise ArtifactError(
            f"{path} has an unknown interface in its metadata: {error}. Expected one that this "
            "version knows. Upgrade levit-deploy, or export the file again."
        ) from error


def claimed_maps(path: Path, metadata: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the maps in a file's metadata; raise ArtifactError if damaged."""
    interface = Interface.from_metadata(metadata)
    if interface.output != "feature-maps":
        return {}
    try:
        return interface.outputs(LeViTConfig.from_json(metadata["config"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{path} gives feature maps, and its metadata do not state their shapes "
            f"({type(error).__name__}: {error}). Expected an artifact that levit-deploy wrote. "
            "Export it again."
        ) from error


def answers(
    path: Path, outputs: Sequence[FloatArray], maps: Mapping[str, tuple[int, ...]]
) -> FloatArray:
    """Return the outputs as a row for each image; raise ArtifactError for maps of other shapes."""
    shapes = [output.shape[1:] for output in outputs]
    if maps and shapes != list(maps.values()):
        raise ArtifactError(
            f"{path} gives maps of {shapes}, and its metadata say {maps}. Expected the two to "
            "agree. Export it again."
        )
    return rows(outputs)
