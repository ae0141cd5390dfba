"""The export without this tool: the baseline of every comparison."""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from levit_deploy.arrays import FloatArray
from levit_deploy.extras import require_extra
from levit_deploy.interface import INPUT_NAME
from levit_deploy.quantization.calibration import in_silence


def plain_export(model: torch.nn.Module, image: tuple[int, int, int]) -> bytes:
    """Export with torch.onnx and simplify with onnxsim, with a dynamic batch, nothing else.

    ``image`` is channels, height and width. The input is called ``pixel_values``, the output
    ``logits``. Raises UsageError if onnxscript, which torch.onnx needs, is not installed.
    """
    require_extra("bench", ("onnxscript",), "The plain export by torch.onnx")
    import onnx
    import onnxsim

    images = torch.zeros(2, *image)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), in_silence():
        warnings.simplefilter("ignore")  # torch's, about its own code
        path = Path(folder) / "plain.onnx"
        torch.onnx.export(
            model,
            (images,),
            path,
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
        data: bytes = onnxsim.simplify(onnx.load(path))[0].SerializeToString()
    return data


def plain_int8(data: bytes, images: FloatArray) -> bytes:
    """An export quantized by onnxruntime's static quantization, with its defaults."""
    from onnxruntime.quantization import quantize_static

    with tempfile.TemporaryDirectory() as folder, in_silence():
        given, made = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        given.write_bytes(data)
        quantize_static(given, made, _image_reader(images))
        return made.read_bytes()


def plain_dynamic_int8(data: bytes) -> bytes:
    """An export quantized by onnxruntime's dynamic quantization, with its defaults.

    It rounds weights here and activations as they come, so it needs no images.
    """
    from onnxruntime.quantization import quantize_dynamic

    with tempfile.TemporaryDirectory() as folder, in_silence():
        given, made = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        given.write_bytes(data)
        quantize_dynamic(given, made)
        return made.read_bytes()


def _image_reader(images: FloatArray) -> Any:
    """Images as onnxruntime's tool asks for them, one by one."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        left = iter(images)

        def get_next(self) -> dict[str, FloatArray] | None:
            image = next(self.left, None)
            return None if image is None else {INPUT_NAME: image[None]}

    return Reader()
