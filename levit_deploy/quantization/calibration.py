"""Static quantization by onnxruntime's own tool, in a form that every runtime reads."""

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from levit_deploy.arrays import Images
from levit_deploy.choices import Cpu
from levit_deploy.interface import INPUT_NAME
from levit_deploy.quantization.rounding import QUANTIZED_OPS, only_products_rounded

METHODS = ("MinMax", "Percentile", "Entropy")


def quantize_graph(
    model: onnx.ModelProto, images: Images, method: str, cpu: Cpu
) -> onnx.ModelProto:
    """Put QuantizeLinear and DequantizeLinear around every Conv and Gemm.

    Activations become unsigned bytes, weights signed bytes with a scale for each output channel.
    The ranges of activations come from ``images``, as the model takes them, by one of METHODS.
    ``cpu`` 'any' keeps weights within 64, so that the 16-bit sums of processors without VNNI cannot
    saturate; 'vnni' uses all of a byte. The outputs of a Gemm stay float: onnxruntime then runs it
    straight from bytes to floats, which is faster and more accurate than through bytes. So do the
    sums along the residual branches.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    with tempfile.TemporaryDirectory() as folder, in_silence():
        given, made = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, given)
        quantize_static(
            given,
            made,
            image_reader(images, batch.dim_value or 1, model.graph.input[0].name),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED_OPS),
            per_channel=True,
            reduce_range=cpu == "any",
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[method],
            extra_options={
                "OpTypesToExcludeOutputQuantization": ["Gemm"],
                "CalibStridedMinMax": 1,  # forget the values of one batch before the next
            },
        )
        result = onnx.load(made)
    del result.metadata_props[:]
    return only_products_rounded(result, model)


def image_reader(images: Images, size: int = 1, name: str = INPUT_NAME) -> Any:
    """Images as onnxruntime's tool asks for them, in batches of one size."""
    from onnxruntime.quantization import CalibrationDataReader

    rows = np.arange(-(-len(images) // size) * size) % len(images)  # the last batch filled
    batches = images[rows].reshape(-1, size, *images.shape[1:])

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        left = iter(batches)

        def __len__(self) -> int:
            return len(batches)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.left = iter(batches[start_index:end_index])

        def get_next(self) -> dict[str, Images] | None:
            batch = next(self.left, None)
            return None if batch is None else {name: batch}

    return Reader()


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
