"""The child process that loads an artifact and runs it; ``isolated.py`` is its parent.

Frames go through standard input and output: a kind of one byte, a length, and a body. The child
answers LOAD with HELLO, the artifact's facts, then each ARRAY with the ARRAY of its answers, and
VALUES with an ARRAY for each value on the way, then END. It answers TIME with the TIME that a run
took, in seconds: of the array in the body, or of the last one timed if the body is empty. Instead
of any it may send ERROR.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import signal
import struct
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from levit_deploy.arrays import FloatArray, Images
from levit_deploy.errors import BackendError, LevitDeployError, first_line, is_out_of_memory
from levit_deploy.memory import give_back
from levit_deploy.runtime.artifact import Artifact, Loader, read_artifact

LOAD, HELLO, ARRAY, VALUES, END, TIME, ERROR = b"L", b"H", b"A", b"V", b"Z", b"T", b"E"
HEADER, SECONDS = struct.Struct("<cQ"), struct.Struct("<d")
PR_SET_PDEATHSIG = 1  # of prctl, in linux/prctl.h


def main(loader: str, preload: list[str], threads: int | None, literal: bool, parent: int) -> None:
    """Serve one artifact until the process ``parent`` closes the pipe or ends.

    ``loader`` names the function that opens it, as in 'levit_deploy.targets.onnx:load'.
    """
    end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and ends this
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # the prints of native libraries must not get between the frames
    path = ""
    try:
        for name in preload:
            with suppress(ImportError):  # the loader says it better
                importlib.import_module(name)
        load = imported(loader)
        if (frame := read_frame(requests)) is None:
            return
        path = os.fsdecode(frame[1])
        artifact, load_s = _loaded(load, Path(path), threads, literal)
        give_back(cycles=True)
        if threads is not None and (torch := sys.modules.get("torch")):
            torch.set_num_threads(threads)  # the process's, which here is the artifact's own
        facts = {
            "format": artifact.format,
            "runtime": artifact.runtime,
            "sha256": artifact.sha256,
            "metadata": artifact.metadata,
            "batch_size": artifact.batch_size,
            "image_shape": artifact.image_shape,
            "remarks": artifact.remarks,
            "load_s": load_s,
        }
        write_frame(replies, HELLO, json.dumps(facts).encode())
        timed: Images | None = None
        while (frame := read_frame(requests)) is not None:
            images = bytes_to_array(frame[1]) if frame[1] else timed
            assert images is not None
            if frame[0] == TIME:
                timed = images
                write_frame(replies, TIME, SECONDS.pack(artifact.seconds(images)))
            elif frame[0] == VALUES:
                _send_values(replies, artifact, images)
            else:
                write_frame(replies, ARRAY, array_to_bytes(artifact.run(images)))
    except Exception as error:
        write_frame(replies, ERROR, json.dumps(_told(error, path)).encode())


def _send_values(replies: BinaryIO, artifact: Artifact, images: Images) -> None:
    """Send every value, and END; or ERROR, after which the artifact still runs."""
    try:
        for value in artifact.values(images):
            write_frame(replies, ARRAY, array_to_bytes(value))
    except Exception as error:
        write_frame(replies, ERROR, json.dumps(_told(error, str(artifact.path))).encode())
    else:
        write_frame(replies, END, b"")


def _loaded(load: Loader, path: Path, threads: int | None, literal: bool) -> tuple[Artifact, float]:
    """The artifact, and the seconds that opening it took; its bytes are let go of."""
    data = read_artifact(path)
    start = time.perf_counter()
    artifact = load(path, data, threads, literal)
    return artifact, time.perf_counter() - start


def imported(loader: str) -> Loader:
    """Return the function that a parent named."""
    module, _, name = loader.partition(":")
    load: Loader = getattr(importlib.import_module(module), name)
    return load


def end_with(parent: int) -> None:
    """End this process soon after its parent, even if it computes without end."""
    if sys.platform == "linux":
        # The kernel does it at once, and also while a library keeps the interpreter's lock, as
        # torch does while it loads a program; the thread below has to wait for that.
        with suppress(ImportError, OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _told(error: Exception, path: str) -> dict[str, str]:
    if is_out_of_memory(error) or "bad_alloc" in str(error) or "Failed to allocate" in str(error):
        error = BackendError(f"Memory ran out while {path} was running. Close other programs.")
    if not isinstance(error, LevitDeployError):
        error = BackendError(f"{path} could not be run: {first_line(error)}.")
    return {"kind": type(error).__name__, "message": str(error)}


def read_frame(stream: BinaryIO) -> tuple[bytes, bytes] | None:
    """The next frame's kind and body; None if the stream has ended."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    kind, length = HEADER.unpack(header)
    body = stream.read(length)
    return (kind, body) if len(body) == length else None


def write_frame(stream: BinaryIO, kind: bytes, body: bytes) -> None:
    """Send one frame."""
    stream.write(HEADER.pack(kind, len(body)) + body)
    stream.flush()


def array_to_bytes(array: Images) -> bytes:
    """In numpy's own format, without pickles."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def bytes_to_array(data: bytes) -> FloatArray:
    """The array that ``array_to_bytes`` wrote."""
    array: FloatArray = np.load(io.BytesIO(data), allow_pickle=False)
    return array
