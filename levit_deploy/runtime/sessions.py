"""An onnxruntime session, set up the same way wherever one is opened."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Images = npt.NDArray[np.float32 | np.uint8]  # as an artifact takes them (``Interface.input``)

INPUT_NAME, OUTPUT_NAME = "pixel_values", "logits"


def onnx_session(data: bytes, threads: int | None = None, *, literal: bool = False) -> Any:
    """Open a model on the CPU; raises onnxruntime's own exceptions, which share no base class.

    ``literal`` computes node by node what the file says, with nothing fused: what is rounded is
    then a float between two nodes, and not a byte in a faster one.
    """
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Waiting threads that spin would take the cores from torch, which runs in turns with this.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if literal:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if threads is not None:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        data, sess_options=options, providers=["CPUExecutionProvider"]
    )
