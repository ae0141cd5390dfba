"""An onnxruntime session, set up the same way wherever one is opened."""

from typing import Any

import numpy as np

from levit_deploy.arrays import BATCH_SIZE, FloatArray, Images, Run


def onnx_session(
    model: bytes | str, threads: int | None = None, *, literal: bool = False, arena: bool = True
) -> Any:
    """Open a model, or the file of this name, on the CPU.

    ``literal`` computes node by node, with nothing fused: a rounded number is then a float between
    two nodes, and not a byte in a faster one. Without an ``arena`` memory is given back at once,
    and not kept for the next run. Raises onnxruntime's own exceptions, which share no base class.
    """
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Waiting threads that spin would take the cores from torch, which runs in turns with this.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = arena
    if literal:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model, sess_options=options, providers=["CPUExecutionProvider"]
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
