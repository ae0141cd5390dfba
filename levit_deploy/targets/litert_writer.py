"""Write a plain model in the tokens layout as a LiteRT file (.tflite), operator by operator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from levit_deploy.interface import INPUT_NAME
from levit_deploy.model import LeViT
from levit_deploy.provenance import Provenance
from levit_deploy.targets.litert_graph import GraphBuilder, Value
from levit_deploy.targets.litert_layers import EMITTERS

MODULES = ("patch_embed", "to_tokens", "blocks", "pool", "head")


def to_litert(
    model: LeViT,
    provenance: Provenance,
    batch_size: int,
    input_name: str | None = None,
    output_name: str | None = None,
) -> Callable[[Provenance], bytes]:
    """Build the graph of a plain float32 model in tokens; return a function that writes it.

    It maps ``pixel_values``, float32 (batch, height, width, channels), to ``logits``, float32
    (batch, classes). If the provenance's interface says so, the input is ``pixels`` instead, uint8
    of the same shape, normalised inside, and the outputs are those of ``Interface.outputs``, maps
    with their channels last. In int8-dynamic the weights are rounded. The function takes the
    provenance to write, which may know more by then. Raises UsageError if the bytes' mean and
    standard deviation are not known.
    """
    config, interface = provenance.config, provenance.interface
    g = GraphBuilder(batch_size, EMITTERS, rounds=provenance.precision == "int8-dynamic")
    taken = input_name or interface.input_name
    shape = [batch_size, *config.image_size, config.in_channels]
    if interface.input == "uint8":
        # bytes as what they are: a scale of 1 lets the runtime's fast kernels take them
        scale = schema.QuantizationParametersT(
            scale=np.ones(1, np.float32), zeroPoint=np.zeros(1, np.int64)
        )
        given = g.tensor(taken, shape, "uint8", quantization=scale)
        x = _normalised(g, given, *provenance.transform.statistics())
    else:
        given = x = g.tensor(taken, shape)
    for name in MODULES:
        x = g.emit(model.get_submodule(name), x, name)
    if interface.output == "probabilities":
        x = g.like("SOFTMAX", [x], interface.output, schema.SoftmaxOptionsT(beta=1.0))
    outputs = g.maps or {output_name or interface.output: x}
    for name, value in outputs.items():
        g.rename(value, name)
    return lambda complete: g.to_bytes({taken: given}, outputs, complete.to_metadata())


def _normalised(
    g: GraphBuilder, pixels: Value, mean: npt.NDArray[np.float64], std: npt.NDArray[np.float64]
) -> Value:
    """Append (pixels / 255 - mean) / std, as ``onnx_interface.normalised_pixels``."""
    x = g.like("DEQUANTIZE", [pixels], "pixels.float", schema.DequantizeOptionsT())
    offset = g.constant((255 * mean).astype(np.float32), "pixels.mean")
    factor = g.constant((1 / (255 * std)).astype(np.float32), "pixels.factor")
    x = g.like("SUB", [x, offset], "pixels.centred", schema.SubOptionsT())
    return g.like("MUL", [x, factor], INPUT_NAME, schema.MulOptionsT())
