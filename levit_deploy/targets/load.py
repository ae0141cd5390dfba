"""Open any artifact, in this process or in one of its own."""

import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np

from levit_deploy.choices import RUNTIMES, Runtime, require_one_of
from levit_deploy.errors import ArtifactError, BackendError, UsageError
from levit_deploy.runtime.artifact import Artifact, Loader, read_artifact
from levit_deploy.runtime.isolated import TIMEOUT_S, runtime_process
from levit_deploy.targets.formats import target_of
from levit_deploy.targets.onnx_load import LOADERS
from levit_deploy.targets.target import START, Target


def load_artifact(
    path: Path,
    threads: int | None = None,
    *,
    literal: bool = False,
    runtime: Runtime | None = None,
) -> Artifact:
    """Load a file in this process; its first bytes tell the target.

    ``threads`` limits the runtime of an ONNX file; torch has one setting for the whole process.
    ``literal`` has onnxruntime compute an ONNX file node by node. ``runtime`` opens it in another
    than the one it was written for. Raises ArtifactError if no target reads it, and UsageError if
    it cannot be opened in ``runtime``.
    """
    data = read_artifact(path)
    return _loader(path, data[:START], runtime)(path, data, threads, literal)


@contextmanager
def open_isolated(
    path: Path,
    threads: int | None = None,
    timeout_s: float = TIMEOUT_S,
    *,
    literal: bool = False,
    runtime: Runtime | None = None,
) -> Iterator[Artifact]:
    """Load a file in a child process, which ends with the block.

    ``timeout_s`` is for loading, and for each batch. The other arguments and the errors are those
    of ``load_artifact``. Raises BackendError as well, also from ``run``, if the child crashes,
    hangs, or runs out of memory.
    """
    with started(path, threads, timeout_s, literal=literal, runtime=runtime) as load:
        yield load()


@contextmanager
def started(
    path: Path,
    threads: int | None = None,
    timeout_s: float = TIMEOUT_S,
    *,
    literal: bool = False,
    runtime: Runtime | None = None,
) -> Iterator[Callable[[], Artifact]]:
    """Start the child process of ``open_isolated``, which loads its runtime meanwhile.

    Yields the function that loads the file, once.
    """
    start = read_artifact(path, START)
    loader = _loader(path, start, runtime)
    modules = target_of(start).runtime_modules if runtime is None else ()
    with runtime_process(loader, modules, threads, timeout_s, literal=literal) as load:
        yield partial(load, path)


@contextmanager
def runtime_of(target: Target) -> Iterator[Callable[[Path], Artifact]]:
    """Start the target's runtime; yield a function that loads the file that is being written."""
    if not target.isolated:
        yield load_artifact
        return
    with runtime_process(target.load, target.runtime_modules) as load:
        yield load


@contextmanager
def open_data(
    data: bytes, runtime: Runtime | None = None, threads: int | None = None
) -> Iterator[Artifact]:
    """Load a file that has no name yet, as ``open_isolated`` does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "artifact"
        path.write_bytes(data)
        with open_isolated(path, threads, runtime=runtime) as artifact:
            yield artifact


def runs(model: bytes, runtime: Runtime) -> bool:
    """Whether a runtime runs an ONNX file, tried in a process of its own, which it may crash."""
    try:
        with open_data(model, runtime) as artifact:
            shape = (artifact.batch_size or 1, *artifact.image_shape)
            artifact.run(np.zeros(shape, artifact.interface.input))
    except (ArtifactError, BackendError):
        return False
    return True


def _loader(path: Path, start: bytes, runtime: Runtime | None) -> Loader:
    """The function that opens a file which begins with these START bytes."""
    _refuse_checkpoint(path, start)
    target = target_of(start)
    if runtime is None:
        return target.load
    require_one_of("--runtime", runtime, RUNTIMES)
    if target.name != "onnx":
        raise UsageError(
            f"--runtime {runtime} is for ONNX files, and {path} is none: {target.runtime} runs it. "
            "Leave the option out."
        )
    return LOADERS[runtime]


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
