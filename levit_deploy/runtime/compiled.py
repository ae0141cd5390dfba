"""A network compiled by OpenVINO, set up the same way wherever one is opened."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from levit_deploy.arrays import FloatArray, Images


def openvino_runner(
    model: bytes, threads: int | None = None, precision: str = "f32"
) -> Callable[[Images], list[FloatArray]]:
    """Compile an ONNX file of one input: a function from images to its outputs, by place.

    The other arguments and the errors are those of ``compiled``.
    """
    network = imported_openvino().Core().read_model(io.BytesIO(model))
    request = compiled(network, threads, precision).create_infer_request()

    def run(images: Images) -> list[FloatArray]:
        return [np.array(output) for output in request.infer([images]).values()]

    return run


def compiled(network: Any, threads: int | None = None, precision: str = "f32") -> Any:
    """Compile a network of OpenVINO's for the CPU; raises its own exceptions.

    ``precision`` is that of what the network leaves in floats: 'f32' or 'bf16'. Without it OpenVINO
    takes bfloat16 if the processor has that.
    """
    settings: dict[str, object] = {
        "INFERENCE_PRECISION_HINT": precision,
        "NUM_STREAMS": 1,  # one batch at a time, with all threads
        "ENABLE_CPU_PINNING": False,  # other programs run on the same processors
        "CACHE_DIR": "",
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    return imported_openvino().Core().compile_model(network, "CPU", settings)


def has_bfloat16() -> bool:
    """Whether this processor computes in bfloat16, by OpenVINO's word."""
    core = imported_openvino().Core()
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def imported_openvino() -> Any:
    """Import OpenVINO without its telemetry.

    By default its import writes to the home folder and calls a server. It does neither if the
    package for that is missing.
    """
    telemetry, before = "openvino_telemetry", sys.modules.get("openvino_telemetry")
    sys.modules[telemetry] = None  # type: ignore[assignment]  # by Python's rules: not to be found
    try:
        import openvino
    finally:
        del sys.modules[telemetry]
        if before is not None:
            sys.modules[telemetry] = before
    return openvino
