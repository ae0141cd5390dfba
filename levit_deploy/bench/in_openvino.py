"""The entries for OpenVINO: the files of onnxruntime, its own, and those of NNCF."""

import io
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np

from levit_deploy.arrays import FloatArray
from levit_deploy.bench.contender import AnyRun, Contender, Entry, Making, opened
from levit_deploy.choices import Runtime
from levit_deploy.errors import BackendError
from levit_deploy.extras import is_installed, require_openvino
from levit_deploy.quantization.calibration import in_silence
from levit_deploy.runtime.compiled import (
    compiled,
    has_bfloat16,
    imported_openvino,
    openvino_runner,
)
from levit_deploy.targets.load import runs

RUNTIME: Runtime = "openvino"


def in_openvino(
    files: Mapping[str, Making],
    fixed: Mapping[str, Making],
    batch_size: int,
    plain: str,
    images: FloatArray,
    threads: int,
) -> Iterator[Entry]:
    """Files of any batch, and those with a ``fixed`` one of ``batch_size``.

    The file called ``plain`` is also quantized by NNCF, if that is installed, with ``images``. If
    the processor has bfloat16, it and the fixed ones are timed in that, too.
    """
    run = partial(openvino_runner, threads=threads)
    in_bfloat16 = partial(openvino_runner, threads=threads, precision="bf16")

    def entry(name: str, file: Making, run: Callable[[bytes], AnyRun]) -> Entry:
        return Entry(name, RUNTIME, partial(_opened, file, run))

    def entry_of_fixed(name: str, file: Making, run: Callable[[bytes], AnyRun]) -> Entry:
        return Entry(name, RUNTIME, partial(_opened_if_it_runs, file, run, batch_size))

    at = f"batch {batch_size}"
    for name, file in files.items():
        yield entry(name, file, run)
    for name, file in fixed.items():
        yield entry_of_fixed(f"{name}, {at}", file, run)
    if is_installed("openvino") and has_bfloat16():
        yield entry(f"{plain}, bf16", files[plain], in_bfloat16)
        for name, file in fixed.items():
            yield entry_of_fixed(f"{name}, {at}, bf16", file, in_bfloat16)
    if is_installed("nncf"):
        by_nncf = partial(_by_nncf, images=images, batch_size=batch_size, threads=threads)
        opening = partial(_opened, files[plain], by_nncf, batch_size)
        yield Entry(f"{plain}, int8 by NNCF, {at}", RUNTIME, opening)


def _opened(
    file: Making, run: Callable[[bytes], AnyRun], batch_size: int | None = None
) -> Contender:
    require_openvino()
    return opened(file, run, batch_size)


def _opened_if_it_runs(file: Making, run: Callable[[bytes], AnyRun], batch_size: int) -> Contender:
    """A file of a fixed batch: OpenVINO crashes on some, and would take this process along."""
    require_openvino()
    if not runs(file(), RUNTIME):
        raise BackendError("OpenVINO does not run this file.")
    return opened(file, run, batch_size)


def _by_nncf(data: bytes, images: FloatArray, batch_size: int, threads: int) -> AnyRun:
    """A float file for a fixed batch, quantized with NNCF's defaults, as its guide does it."""
    openvino = imported_openvino()
    os.environ.setdefault("NNCF_CI", "1")  # by which it leaves its telemetry out
    with in_silence():
        import nncf

        network = openvino.Core().read_model(io.BytesIO(data))
        network.reshape([batch_size, *images.shape[1:]])
        batches = [np.repeat(image[None], batch_size, axis=0) for image in images]
        network = nncf.quantize(network, nncf.Dataset(batches))
    request = compiled(network, threads).create_infer_request()
    return lambda images: request.infer([images])
