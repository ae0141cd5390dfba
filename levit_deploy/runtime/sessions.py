"""An onnxruntime session, set up the same way wherever one is opened."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

INPUT_NAME, OUTPUT_NAME = "pixel_values", "logits"


def onnx_session(data: bytes, threads: int | None = None) -> Any:
    """Open a model on the CPU; raises onnxruntime's own exceptions, which share no base class."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Waiting threads that spin would take the cores from torch, which runs in turns with this.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        data, sess_options=options, providers=["CPUExecutionProvider"]
    )
