"""The ranges of a network's values on pictures, by three methods, from one run in float."""

import contextlib
import io
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

from levit_deploy.arrays import BATCH_SIZE, FloatArray, Images
from levit_deploy.runtime.sessions import onnx_session
from levit_deploy.targets.onnx_int8_writer import Int8Form
from levit_deploy.targets.onnx_rounding import Range

METHODS = ("MinMax", "Percentile", "Entropy")


def observed_ranges(form: Int8Form, images: Images) -> dict[str, dict[str, Range]]:
    """The range of every value that can be rounded, by method and by name.

    ``images`` are as the form takes them. MinMax is the smallest and largest number seen. The
    others cut off rare numbers, as the calibrators of onnxruntime do with their defaults.
    """
    from onnxruntime.quantization.calibrate import HistogramCollector

    options = {"symmetric": False, "num_quantized_bins": 128, "percentile": 99.999, "scenario": ""}
    collectors = {
        "Percentile": HistogramCollector(method="percentile", num_bins=2048, **options),
        "Entropy": HistogramCollector(method="entropy", num_bins=128, **options),
    }
    ends: dict[str, Range] = {}
    with in_silence(), np.errstate(all="ignore"):
        for values in _values(form, images):
            for name, value in values.items():
                low, high = ends.get(name, (np.inf, -np.inf))
                ends[name] = min(low, float(value.min())), max(high, float(value.max()))
            for collector in collectors.values():
                collector.collect({n: value for n, value in values.items() if value.any()})
        cut = {method: _cut(collector) for method, collector in collectors.items()}
    # numbers that are all zero have no histogram
    return {"MinMax": ends} | {method: ends | ranges for method, ranges in cut.items()}


def _cut(collector: Any) -> dict[str, Range]:
    """The range of each value without rare numbers, if onnxruntime finds one.

    Of numbers that are nearly all zero, its entropy is an assertion that fails.
    """
    ranges, histograms = {}, collector.histogram_dict
    for name, histogram in histograms.items():
        collector.histogram_dict = {name: histogram}
        with contextlib.suppress(AssertionError):
            low, high, *_ = collector.compute_collection_result()[name]
            ranges[name] = float(low), float(high)
    return ranges


def _values(form: Int8Form, images: Images) -> Iterator[dict[str, FloatArray]]:
    """The values that can be rounded, batch by batch."""
    model, points = form.unrounded(), form.places().points
    input_name = model.graph.input[0].name
    inside = [name for name in points if name != input_name]
    present = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in inside if n not in present)
    session = onnx_session(model.SerializeToString())
    size = form.batch_size or BATCH_SIZE
    rows = np.arange(-(-len(images) // size) * size) % len(images)
    for start in range(0, len(rows), size):
        batch = images[rows[start : start + size]]
        values = dict(zip(inside, session.run(inside, {input_name: batch}), strict=True))
        yield values | ({input_name: batch} if input_name in points else {})


@contextlib.contextmanager
def in_silence() -> Iterator[None]:
    """Hide the prints and logs of other tools from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
