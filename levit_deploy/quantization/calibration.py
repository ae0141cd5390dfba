"""The ranges of a network's values on pictures, by three methods, from one run in float."""

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx

from levit_deploy.arrays import BATCH_SIZE, FloatArray, Images
from levit_deploy.runtime.sessions import onnx_session
from levit_deploy.targets.onnx_int8_writer import Int8Form
from levit_deploy.targets.onnx_rounding import Range

METHODS = ("MinMax", "Percentile", "Entropy")
BINS, FINER = 128, 16  # onnxruntime's defaults: 128 for entropy, and 2,048 for percentiles
THREADS = 4


def observed_ranges(form: Int8Form, images: Images) -> dict[str, dict[str, Range]]:
    """The range of every value that can be rounded, by method and by name.

    ``images`` are as the form takes them. MinMax is the smallest and largest number seen. The
    others cut off rare numbers, as the calibrators of onnxruntime do with their defaults.
    """
    ends: dict[str, Range] = {}
    histograms: dict[str, _Histogram] = {}

    def count(item: tuple[str, FloatArray]) -> None:
        name, value = item
        low, high = ends.get(name, (np.inf, -np.inf))
        ends[name] = min(low, float(value.min())), max(high, float(value.max()))
        if value.any():  # numbers that are all zero have no histogram
            histograms.setdefault(name, _Histogram()).add(value.ravel())

    with in_silence(), np.errstate(all="ignore"):
        with ThreadPoolExecutor(THREADS) as pool:  # numpy counts without the interpreter's lock
            for values in _values(form, images):
                list(pool.map(count, values.items()))
        cut = {method: _cut(histograms, ends, method) for method in METHODS[1:]}
    return {"MinMax": ends} | {method: ends | ranges for method, ranges in cut.items()}


class _Histogram:
    """The numbers of a value, counted once for both methods.

    Bins are those of onnxruntime's collector for entropy, each cut into FINER for percentiles. As
    there, the first numbers set their width, and larger ones later add bins at both ends.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(BINS * FINER, np.int64)
        self.largest = 0.0  # the bins go from - largest to largest

    def add(self, numbers: FloatArray) -> None:
        """Count some numbers, not all of them zero."""
        largest = max(-float(numbers.min()), float(numbers.max()))
        if not self.largest:
            self.largest = largest
        elif largest > self.largest:
            width = 2 * self.largest * FINER / len(self.counts)
            more = int((largest - self.largest) // width) + 1
            self.counts = np.pad(self.counts, more * FINER)
            self.largest += more * width
        ends = (-self.largest, self.largest)
        self.counts += np.histogram(numbers, len(self.counts), range=ends)[0]

    def collected(self, ends: Range, *, fine: bool) -> tuple[Any, ...]:
        """What a collector of onnxruntime holds of a value whose numbers end here."""
        counts = self.counts if fine else self.counts.reshape(-1, FINER).sum(1)
        edges = np.linspace(-self.largest, self.largest, len(counts) + 1, dtype=np.float32)
        low, high = (np.float32(end) for end in ends)
        return counts, edges, low, high, np.float32(self.largest)


def _cut(
    histograms: Mapping[str, _Histogram], ends: Mapping[str, Range], method: str
) -> dict[str, Range]:
    """The range of each value without rare numbers, if onnxruntime finds one.

    Of numbers that are nearly all zero, its entropy is an assertion that fails.
    """
    from onnxruntime.quantization.calibrate import HistogramCollector

    is_fine = method == "Percentile"
    collector = HistogramCollector(
        method=method.lower(),
        symmetric=False,
        num_bins=BINS * FINER if is_fine else BINS,
        num_quantized_bins=128,
        percentile=99.999,
        scenario="",
    )
    ranges = {}
    for name, histogram in histograms.items():
        collector.histogram_dict = {name: histogram.collected(ends[name], fine=is_fine)}
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
