"""The contenders that OpenVINO runs: the files of onnxruntime, its own, and those of NNCF."""

import importlib.util
import io
import os
from collections.abc import Iterator, Mapping
from functools import partial

from levit_deploy.arrays import FloatArray
from levit_deploy.bench.contender import AnyRun, Contender, opened
from levit_deploy.choices import Runtime
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
    files: Mapping[str, bytes],
    single: Mapping[str, bytes],
    plain: str,
    images: FloatArray,
    threads: int,
) -> Iterator[Contender]:
    """Compile files of any batch, and those of a ``single`` image.

    The file called ``plain`` is also quantized by NNCF, if that is installed, with ``images``. If
    the processor has bfloat16, it and the single ones are timed in that, too.
    """
    run = partial(openvino_runner, threads=threads)
    in_bfloat16 = partial(openvino_runner, threads=threads, precision="bf16")
    for name, data in files.items():
        yield opened(name, RUNTIME, data, run)
    # it crashes on some, and would take this process along
    single = {name: data for name, data in single.items() if runs(data, RUNTIME)}
    for name, data in single.items():
        yield opened(f"{name}, batch 1", RUNTIME, data, run, batch_size=1)
    if has_bfloat16():
        yield opened(f"{plain}, bf16", RUNTIME, files[plain], in_bfloat16)
        for name, data in single.items():
            yield opened(f"{name}, batch 1, bf16", RUNTIME, data, in_bfloat16, batch_size=1)
    if importlib.util.find_spec("nncf") is not None:
        by_nncf = partial(_by_nncf, images=images, threads=threads)
        yield opened(f"{plain}, int8 by NNCF, batch 1", RUNTIME, files[plain], by_nncf, 1)


def _by_nncf(data: bytes, images: FloatArray, threads: int) -> AnyRun:
    """A float file for a single image, quantized with NNCF's defaults, as its guide does it."""
    openvino = imported_openvino()
    os.environ.setdefault("NNCF_CI", "1")  # by which it leaves its telemetry out
    with in_silence():
        import nncf

        network = openvino.Core().read_model(io.BytesIO(data))
        network.reshape([1, *images.shape[1:]])
        network = nncf.quantize(network, nncf.Dataset([image[None] for image in images]))
    request = compiled(network, threads).create_infer_request()
    return lambda images: request.infer([images])
