"""From a float network to a rounded one that answers as well and runs faster."""

import dataclasses
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from levit_deploy.arrays import Images
from levit_deploy.choices import CPUS, Cpu, require_one_of
from levit_deploy.errors import UsageError, VerificationError
from levit_deploy.pictures.split import Judging
from levit_deploy.provenance import Provenance
from levit_deploy.quantization.outcome import Quantization
from levit_deploy.quantization.search import search
from levit_deploy.quantization.whole import rounded_as_a_whole
from levit_deploy.runtime.compiled import openvino_runner
from levit_deploy.runtime.sessions import runner
from levit_deploy.targets.load import runs
from levit_deploy.targets.onnx_ends import renamed
from levit_deploy.targets.onnx_int8_writer import int8_form
from levit_deploy.targets.plan import Plan
from levit_deploy.timing import Ratio, ratio, rounds_side_by_side
from levit_deploy.verification.accuracy import require_drop

AnyRun = Callable[[Images], object]

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
    plan: Plan,
    calibration: Images,
    pictures: Judging,
    options: Int8Options,
    progress: Callable[[str], object] = lambda _doing: None,
) -> tuple[Callable[[Provenance], bytes], Quantization]:
    """Round a network, and time it beside the fastest float32 file for the same runtime.

    Returns a function that writes the file with its provenance. Raises VerificationError if no
    rounded network holds the drop, or it is not faster.
    """
    if plan.target.rounded is not None:
        write, quantization = rounded_as_a_whole(
            plan,
            calibration,
            pictures,
            max_drop=options.max_drop,
            confident=options.confident,
            progress=progress,
        )
    else:
        write, quantization = _searched(plan, calibration, pictures, options, progress)
    speed = quantization.speed
    if speed is not None and speed.verdict != "faster" and not options.even_if_slower:
        raise VerificationError(
            f"{plan.precision} is not reliably faster than float here: {speed.median:.2f} times as "
            f"fast as the best float32 file, with quartiles from {speed.low:.2f} to "
            f"{speed.high:.2f}, on one thread. Expected three rounds of four to be faster. Nothing "
            "was published. Export float32, or give --even-if-slower if it is for another machine."
        )
    return write, quantization


def _searched(
    plan: Plan,
    calibration: Images,
    pictures: Judging,
    options: Int8Options,
    progress: Callable[[str], object],
) -> tuple[Callable[[Provenance], bytes], Quantization]:
    """An ONNX file, with those layers in float that rounding would cost too much."""
    model, quantization = search(
        int8_form(plan.network(), plan.provenance, plan.options),
        calibration,
        pictures,
        cpu="vnni" if plan.precision == "w8a16" else options.cpu,
        max_drop=options.max_drop,
        confident=options.confident,
        block_names=plan.checkpoint.block_names,
        progress=progress,
    )

    def write(provenance: Provenance) -> bytes:
        onnx.helper.set_model_props(model, provenance.to_metadata())
        data: bytes = renamed(model, *plan.options.names).SerializeToString(deterministic=True)
        return data

    if plan.precision == "w8a16":
        return write, quantization
    progress("timing it beside float32")
    batch = plan.options.fixed_batch or 1
    images = calibration[np.arange(batch) % len(calibration)]
    timed = _speed_in_openvino if plan.target.runtime == "openvino" else _speed_in_onnxruntime
    speed = timed(write(plan.provenance), plan.fastest_in_float().serialize(), images)
    return write, dataclasses.replace(quantization, speed=speed)


def _speed_in_onnxruntime(data: bytes, rival: bytes, images: Images) -> Ratio:
    """Time both on one thread, which is this one, so that other programs do not count."""
    run = partial(runner, batch=len(images), threads=1)
    return _speed(run(data), run(rival), images, CLOCK)


def _speed_in_openvino(data: bytes, rival: bytes, images: Images) -> Ratio | None:
    """The same in OpenVINO, which has a thread of its own; None if it crashes on the rival."""
    if not runs(rival, "openvino"):
        return None
    run = partial(openvino_runner, threads=1)
    return _speed(run(data), run(rival), images, time.process_time)


def _speed(int8: AnyRun, float32: AnyRun, images: Images, clock: Callable[[], float]) -> Ratio:
    calls: dict[str, Callable[[], object]] = {
        "int8": partial(int8, images),
        "float32": partial(float32, images),
    }
    times = rounds_side_by_side(calls, rounds=ROUNDS, clock=clock)
    return ratio(times["float32"], times["int8"])
