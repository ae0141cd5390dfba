"""From a float graph to an int8 one that answers as well and runs faster."""

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from levit_deploy.arrays import Images
from levit_deploy.choices import CPUS, Cpu, require_one_of
from levit_deploy.errors import UsageError, VerificationError
from levit_deploy.pictures.split import Judging
from levit_deploy.quantization.search import Quantization, search
from levit_deploy.runtime.compiled import openvino_runner
from levit_deploy.runtime.sessions import runner
from levit_deploy.targets.load import runs
from levit_deploy.targets.onnx_int8_writer import Int8Form
from levit_deploy.targets.onnx_schemes import FOR_OPENVINO
from levit_deploy.timing import Ratio, ratio, rounds_side_by_side
from levit_deploy.verification.accuracy import require_drop

ROUNDS = 40
# the processor's time, which other programs do not add to; Windows counts it in steps of 16 ms
CLOCK = time.perf_counter if sys.platform == "win32" else time.thread_time


@dataclass(frozen=True)
class Int8Options:
    """The user's choices for quantization.

    ``images`` is a folder of pictures such as the network will meet. ``max_drop`` is the number of
    points of top-1 that may be lost, or of agreement without labels; None stands for the defaults.
    ``cpu`` is one of CPUS. ``even_if_slower`` publishes a network that is not faster than float
    here. w8a16, which is for other machines, takes neither. ``confident`` asks that the pictures
    show the drop with 95 % confidence. Raises UsageError for a choice that does not exist.
    """

    images: str | Path
    max_drop: float | None = None
    cpu: Cpu = "any"
    even_if_slower: bool = False
    confident: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.images, str | Path):
            raise UsageError(
                f"A {type(self.images).__name__} was given for the pictures of int8. Expected the "
                "path of a folder with pictures such as the network will meet."
            )
        require_drop(self.max_drop)
        require_one_of("--cpu", self.cpu, CPUS)


def quantized(
    form: Int8Form,
    rival: bytes | None,
    calibration: Images,
    pictures: Judging,
    options: Int8Options,
    block_names: Mapping[str, str],
    progress: Callable[[str], object] = lambda _doing: None,
) -> tuple[onnx.ModelProto, Quantization]:
    """Round a network, and time it beside the fastest float32 file, its ``rival``, if it has one.

    ``block_names`` are those of ``search``. Raises VerificationError if no int8 network holds the
    drop, or it is not faster.
    """
    model, quantization = search(
        form,
        calibration,
        pictures,
        cpu="vnni" if form.scheme.precision == "w8a16" else options.cpu,
        max_drop=options.max_drop,
        confident=options.confident,
        block_names=block_names,
        progress=progress,
    )
    if rival is None:
        return model, quantization
    data: bytes = model.SerializeToString(deterministic=True)
    batch = form.batch_size or 1
    images = calibration[np.arange(batch) % len(calibration)]
    if form.scheme == FOR_OPENVINO:
        speed = _speed_in_openvino(data, rival, images, progress)
    else:
        speed = _speed(data, rival, images, progress)
    if speed is not None and speed.verdict != "faster" and not options.even_if_slower:
        raise VerificationError(
            f"int8 is not reliably faster than float here: {speed.median:.2f} times as fast as the "
            f"best float32 file, with quartiles from {speed.low:.2f} to {speed.high:.2f}, by the "
            "time of the processor on one thread. Expected three rounds of four to be faster. "
            "Nothing was published. Export float32, or give --even-if-slower if it is for another "
            "machine."
        )
    return model, dataclasses.replace(quantization, speed=speed)


def _speed_in_openvino(
    data: bytes, rival: bytes, images: Images, progress: Callable[[str], object]
) -> Ratio | None:
    """The same in OpenVINO, which has a thread of its own; None if it crashes on the rival."""
    if not runs(rival, "openvino"):
        return None
    calls: dict[str, Callable[[], object]] = {
        name: partial(openvino_runner(model, threads=1), images)
        for name, model in (("int8", data), ("float32", rival))
    }
    progress("timing it beside float32")
    times = rounds_side_by_side(calls, rounds=ROUNDS, clock=time.process_time)
    return ratio(times["float32"], times["int8"])


def _speed(data: bytes, rival: bytes, images: Images, progress: Callable[[str], object]) -> Ratio:
    """Time both on one thread, which is this one, so that other programs do not count."""
    batch = len(images)
    calls: dict[str, Callable[[], object]] = {
        name: partial(runner(model, batch, threads=1), images)
        for name, model in (("int8", data), ("float32", rival))
    }
    progress("timing it beside float32")
    times = rounds_side_by_side(calls, rounds=ROUNDS, clock=CLOCK)
    return ratio(times["float32"], times["int8"])
