"""Write a plain model as ONNX, op by op."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
from torch import nn

from levit_deploy.choices import Precision
from levit_deploy.interface import OUTPUT_NAME
from levit_deploy.model import LeViT
from levit_deploy.provenance import Provenance
from levit_deploy.targets.onnx_attention import ATTENTION_EMITTERS
from levit_deploy.targets.onnx_contract import MODULE_NAMES
from levit_deploy.targets.onnx_graph import Emitter, GraphBuilder, Value
from levit_deploy.targets.onnx_interface import normalised_pixels, probabilities
from levit_deploy.targets.onnx_layers import LAYER_EMITTERS
from levit_deploy.targets.onnx_opsets import DEFAULT_OPSET
from levit_deploy.targets.onnx_proto import to_proto

# No bfloat16: onnxruntime 1.32 has no Conv, Gemm or MatMul in it on a CPU, and a CPU proves it.
Statistics = npt.NDArray[np.float64]  # a mean or a standard deviation, one for each channel
PixelEmitter = Callable[[GraphBuilder, Value, Statistics, Statistics], Value]
DTYPES: dict[Precision, npt.DTypeLike] = {"fp32": np.float32, "fp16": np.float16}
FLOAT_EMITTERS: dict[type[nn.Module], Emitter] = {**LAYER_EMITTERS, **ATTENTION_EMITTERS}


def to_onnx(
    model: LeViT,
    provenance: Provenance,
    *,
    opset: int = DEFAULT_OPSET,
    batch_size: int | None = None,
) -> onnx.ModelProto:
    """Build the graph of a plain float32 model in either layout.

    From ``pixel_values`` (batch, channels, height, width) to ``logits`` (batch, classes), both
    float32, it computes in the provenance's precision. If the provenance's interface says so, the
    input is ``pixels`` instead, uint8 (batch, height, width, channels), normalised in float32, and
    the outputs are those of ``Interface.outputs``. ``batch_size`` fixes the batch, which is dynamic
    otherwise.
    Raises CheckpointError if the precision cannot hold a weight, UsageError if the bytes'
    mean and standard deviation are not known.
    """
    batch: int | str = "batch" if batch_size is None else batch_size
    graph = GraphBuilder(opset, batch, FLOAT_EMITTERS, DTYPES[provenance.precision])
    given, outputs = built(graph, model, provenance, normalised_pixels)
    return to_proto(graph, given, outputs, provenance.to_metadata())


def built(
    graph: GraphBuilder, model: LeViT, provenance: Provenance, images_of: PixelEmitter
) -> tuple[Value, list[Value]]:
    """Build the whole graph of a plain model; ``images_of`` makes images of pixels.

    Returns its input and its outputs.
    """
    config, interface = provenance.config, provenance.interface
    is_float = graph.dtype == np.float32
    shape = (graph.batch, *interface.image_shape(config))
    given = x = Value(interface.input_name, np.dtype(interface.input), shape)
    if interface.input == "uint8":
        x = images_of(graph, x, *provenance.transform.statistics())
    if not is_float:
        x = graph.cast(x, "patch_embed.cast", graph.dtype)
    for name in MODULE_NAMES:
        x = graph.emit(model.get_submodule(name), x, name)
    outputs = graph.maps or {OUTPUT_NAME if interface.has_classes else interface.output: x}
    if not is_float:
        outputs = {
            name: graph.cast(value, f"{_place(name)}.cast", np.float32)
            for name, value in outputs.items()
        }
    outputs = {name: graph.finished(value, name) for name, value in outputs.items()}
    if interface.output == "probabilities":
        outputs = {interface.output: probabilities(graph, outputs[OUTPUT_NAME])}
    return given, list(outputs.values())


def _place(output: str) -> str:
    """The module behind which an output of the network comes."""
    return {OUTPUT_NAME: "head", "features": "pool"}.get(output, f"blocks.{output}")
