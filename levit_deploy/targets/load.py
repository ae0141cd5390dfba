"""Open any artifact, in this process or in one of its own."""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from levit_deploy.errors import ArtifactError
from levit_deploy.regular_files import open_regular
from levit_deploy.runtime.artifact import Artifact, read_artifact
from levit_deploy.runtime.isolated import TIMEOUT_S, runtime_process
from levit_deploy.targets.formats import target_of
from levit_deploy.targets.target import Target


def load_artifact(path: Path, threads: int | None = None, *, literal: bool = False) -> Artifact:
    """Load a file in this process; its first bytes tell the target.

    ``threads`` limits onnxruntime; torch has one setting for the whole process. ``literal`` has
    onnxruntime compute an ONNX file node by node. Raises ArtifactError if no target reads it.
    """
    data = read_artifact(path)
    _refuse_checkpoint(path, data[:16])
    return target_of(data[:16]).load(path, data, threads, literal)


@contextmanager
def open_isolated(
    path: Path, threads: int | None = None, timeout_s: float = TIMEOUT_S, *, literal: bool = False
) -> Iterator[Artifact]:
    """Load a file in a child process, which ends with the block.

    ``timeout_s`` is for loading, and for each batch. ``threads`` and ``literal`` are those of
    ``load_artifact``. Raises ArtifactError as that does, and BackendError, also from ``run``, if
    the child crashes, hangs, or runs out of memory.
    """
    start = _start(path)
    _refuse_checkpoint(path, start)
    loader = target_of(start).load
    with runtime_process(loader, (), threads, timeout_s, literal=literal) as load:
        yield load(path)


@contextmanager
def runtime_of(target: Target) -> Iterator[Callable[[Path], Artifact]]:
    """Start the target's runtime; yield a function that loads the file that is being written."""
    if not target.isolated:
        yield load_artifact
        return
    with runtime_process(target.load, target.runtime_modules) as load:
        yield load


def _start(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(16)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}. Check the path.") from error


def _refuse_checkpoint(path: Path, start: bytes) -> None:
    """Raise ArtifactError for a file of torch.save, which is no program."""
    # safetensors begins with a length, and a 32nd of them with the byte of a pickle.
    is_pickle = start.startswith(b"\x80") and start[8:9] != b"{"
    if start.startswith(b"PK\x03\x04"):
        with suppress(OSError, ValueError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            members = {name.rpartition("/")[2] for name in archive.namelist()}
            is_pickle = "data.pkl" in members and "constants.pkl" not in members
    if is_pickle:
        raise ArtifactError(
            f"{path} is a checkpoint and not an artifact. Expected a file that was exported. "
            f"Export it first: levit-deploy export {path}."
        )
