"""Run an artifact in a process of its own, so that nothing it does can end this one."""

from __future__ import annotations

import atexit
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path

from levit_deploy import errors
from levit_deploy.arrays import FloatArray, Images
from levit_deploy.errors import BackendError
from levit_deploy.runtime.artifact import Artifact, Loader
from levit_deploy.runtime.child import (
    ARRAY,
    END,
    ERROR,
    HELLO,
    LOAD,
    SECONDS,
    TIME,
    VALUES,
    array_to_bytes,
    bytes_to_array,
    read_frame,
    write_frame,
)

TIMEOUT_S = 300.0  # a batch of 128 takes the largest LeViT seconds

# started with -P, or Python would look for modules in the current folder first
_PROGRAM = (
    "import json, sys; sys.path[:], *options = json.loads(sys.argv[1]); "
    "from levit_deploy.runtime.child import main; main(*options)"
)


@contextmanager
def runtime_process(
    loader: Loader,
    preload: Sequence[str] = (),
    threads: int | None = None,
    timeout_s: float = TIMEOUT_S,
    *,
    literal: bool = False,
) -> Iterator[Callable[[Path], Artifact]]:
    """Start a child process for one artifact, which may still be unwritten.

    The child imports the modules ``preload`` meanwhile. It ends with the block, and with this
    process, however that ends. Yields a function that has the child load the artifact with
    ``loader``, once. ``timeout_s`` is for loading, and for each batch. ``threads`` and ``literal``
    go to the loader. Raises ArtifactError as the loader does, and BackendError, also from ``run``,
    if the child crashes, hangs, or runs out of memory.
    """
    name = f"{loader.__module__}:{loader.__qualname__}"
    arguments = json.dumps([sys.path, name, list(preload), threads, literal, os.getpid()])
    child = _Child([sys.executable, "-P", "-c", _PROGRAM, arguments], timeout_s)
    # a generator that stands in this block when Python exits is ended too late: its threads are
    # frozen by then, perhaps with the lock of the pipe that is to be closed
    atexit.register(child.end)
    try:
        yield child.load
    finally:
        atexit.unregister(child.end)
        child.end()


class _Child:
    """The child, and the parent's end of its pipes; threads read and write, so waiting can end.

    A child that hangs does not read either. One thread writes all: to start one for each batch
    takes as long as a small network. It also starts the child, which the system ends with the
    thread that started it; the caller's may end before the last answer is asked for.
    """

    def __init__(self, command: list[str], timeout_s: float) -> None:
        self.path, self.timeout_s = Path(), timeout_s
        self.timed: Images | None = None  # the array that the child holds
        started: Future[subprocess.Popen[bytes]] = Future()
        self.requests: queue.SimpleQueue[tuple[bytes, bytes] | None] = queue.SimpleQueue()
        self.replies: queue.SimpleQueue[tuple[bytes, bytes] | None] = queue.SimpleQueue()
        writer = threading.Thread(target=self._write, args=(command, started), daemon=True)
        writer.start()
        self.process = started.result()
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        self.threads = (reader, writer)

    def end(self) -> None:
        """Kill the process, which ends both threads, and close its pipes; again, do nothing."""
        self.process.kill()
        self.process.wait()
        self.requests.put(None)
        for thread in self.threads:
            thread.join()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with suppress(OSError):  # something was not sent yet
                stream.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with suppress(ValueError, OSError):  # closed while reading
            while (frame := read_frame(self.process.stdout)) is not None:  # type: ignore[arg-type]
                self.replies.put(frame)
        self.replies.put(None)

    def _write(self, command: list[str], started: Future[subprocess.Popen[bytes]]) -> None:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # torch's idle threads would spin, and take the processor from the parent
                env={"OMP_WAIT_POLICY": "PASSIVE"} | os.environ,
            )
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(process)
        assert process.stdin is not None
        while (frame := self.requests.get()) is not None:
            with suppress(ValueError, OSError):  # the reply tells how it ended
                write_frame(process.stdin, *frame)  # type: ignore[arg-type]

    def load(self, path: Path) -> Artifact:
        self.path = path
        self.requests.put((LOAD, os.fsencode(path)))
        facts = json.loads(self._reply(HELLO)[1])
        facts |= {name: tuple(facts[name]) for name in ("image_shape", "remarks")}
        return Artifact(path=path, run=self.run, values=self.values, timer=self.seconds, **facts)

    def run(self, images: Images) -> FloatArray:
        self.requests.put((ARRAY, array_to_bytes(images)))
        return bytes_to_array(self._reply(ARRAY)[1])

    def seconds(self, images: Images) -> float:
        self.requests.put((TIME, b"" if images is self.timed else array_to_bytes(images)))
        self.timed = images
        (taken,) = SECONDS.unpack(self._reply(TIME)[1])
        return float(taken)

    def values(self, images: Images) -> Iterator[FloatArray]:
        self.requests.put((VALUES, array_to_bytes(images)))
        more = True
        try:
            while more:
                more = False  # if this fails, nothing follows
                kind, body = self._reply(ARRAY, END)
                if more := kind == ARRAY:
                    yield bytes_to_array(body)
        finally:  # or the next answer would be one of these
            with suppress(errors.LevitDeployError):
                while more:
                    more = self._reply(ARRAY, END)[0] == ARRAY

    def _reply(self, *kinds: bytes) -> tuple[bytes, bytes]:
        """The next frame, which has to be of one of these kinds."""
        try:
            frame = self.replies.get(timeout=self.timeout_s)
        except queue.Empty:
            raise BackendError(
                f"{self.path} gave no answer within {self.timeout_s:.0f} seconds, and was stopped. "
                "The runtime hangs, or the machine is too busy."
            ) from None
        if frame is None:
            self.replies.put(None)  # for who asks again
            raise BackendError(self._how_it_ended())
        if frame[0] == ERROR:
            told = json.loads(frame[1])
            raise getattr(errors, told["kind"])(told["message"])
        assert frame[0] in kinds
        return frame

    def _how_it_ended(self) -> str:
        code = self.process.wait()
        if code == -signal.SIGKILL:
            how = "was killed, as the system does when memory runs out"
        elif code < 0:
            how = f"crashed ({signal.Signals(-code).name})"
        else:
            how = f"ended with exit code {code}"
        return (
            f"The process that ran {self.path} {how}. Nothing else was affected. Check the file, "
            "the runtime's version, and the memory of this machine."
        )
