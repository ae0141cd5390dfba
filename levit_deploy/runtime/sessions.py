"""An onnxruntime session, set up the same way wherever one is opened."""

from typing import Any

import numpy as np

from levit_deploy.arrays import BATCH_SIZE, FloatArray, Images, Run


def onnx_session(data: bytes, threads: int | None = None, *, literal: bool = False) -> Any:
    """Open a model on the CPU; raises onnxruntime's own exceptions, which share no base class.

    ``literal`` computes node by node, with nothing fused: a rounded number is then a float between
    two nodes, and not a byte in a faster one.
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
    session = onnxruntime.InferenceSession(
        data, sess_options=options, providers=["CPUExecutionProvider"]
    )
    session._model_bytes = None  # kept to open it again with fewer providers; there is one
    return session


def runner(model: bytes, batch: int | None, threads: int | None = None) -> Run:
    """An in-process onnxruntime session as a function of any number of images."""
    session = onnx_session(model, threads)
    name = session.get_inputs()[0].name
    return filled(lambda images: session.run(None, {name: images})[0], batch)


def filled(run: Run, batch: int | None) -> Run:
    """Run any number of images in batches of BATCH_SIZE or the fixed size, the last one filled."""
    size = batch or BATCH_SIZE

    def run_all(images: Images) -> FloatArray:
        n = len(images)
        rows = np.arange(-(-n // size) * size) % n if batch else np.arange(n)
        answers = [run(images[rows[i : i + size]]) for i in range(0, len(rows), size)]
        return np.concatenate(answers)[:n]

    return run_all
