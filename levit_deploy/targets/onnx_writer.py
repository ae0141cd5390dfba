"""Write a plain model as ONNX, op by op."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from torch import nn

from levit_deploy.choices import Precision
from levit_deploy.interface import OUTPUT_NAME
from levit_deploy.model import LeViT
from levit_deploy.provenance import TOOL, Provenance
from levit_deploy.targets.onnx_attention import ATTENTION_EMITTERS
from levit_deploy.targets.onnx_contract import MODULE_NAMES
from levit_deploy.targets.onnx_graph import Emitter, GraphBuilder
from levit_deploy.targets.onnx_interface import normalised_pixels, probabilities
from levit_deploy.targets.onnx_layers import LAYER_EMITTERS
from levit_deploy.targets.onnx_opsets import DEFAULT_OPSET, IR_VERSIONS

# No bfloat16: onnxruntime 1.32 has no Conv, Gemm or MatMul in it on a CPU, and a CPU proves it.
Statistics = npt.NDArray[np.float64]  # a mean or a standard deviation, one for each channel
PixelEmitter = Callable[[GraphBuilder, ir.Value, Statistics, Statistics], ir.Value]
DTYPES: dict[Precision, ir.DataType] = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16}
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
    proto = ir.to_proto(built(graph, model, provenance, normalised_pixels))
    onnx.helper.set_model_props(proto, provenance.to_metadata())
    return proto


def built(
    graph: GraphBuilder, model: LeViT, provenance: Provenance, images_of: PixelEmitter
) -> ir.Model:
    """Build the whole graph of a plain model; ``images_of`` makes images of pixels."""
    config, interface = provenance.config, provenance.interface
    is_float = graph.dtype == ir.DataType.FLOAT
    kind = ir.DataType.UINT8 if interface.input == "uint8" else ir.DataType.FLOAT
    shape = [graph.batch, *interface.image_shape(config)]
    given = x = ir.val(interface.input_name, dtype=kind, shape=shape)
    if interface.input == "uint8":
        x = images_of(graph, x, *provenance.transform.statistics())
    if not is_float:
        x = graph.cast(x, "patch_embed.cast", graph.dtype)
    for name in MODULE_NAMES:
        x = graph.emit(model.get_submodule(name), x, name)
    outputs = graph.maps or {OUTPUT_NAME if interface.has_classes else interface.output: x}
    if not is_float:
        outputs = {
            name: graph.cast(value, f"{_place(name)}.cast", ir.DataType.FLOAT)
            for name, value in outputs.items()
        }
    outputs = {name: graph.finished(value, name) for name, value in outputs.items()}
    if interface.output == "probabilities":
        outputs = {interface.output: probabilities(graph, outputs[OUTPUT_NAME])}
    return ir.Model(
        ir.Graph(
            [given],
            list(outputs.values()),
            nodes=graph.nodes,
            initializers=list(graph.initializers.values()),
            opset_imports={"": graph.opset},
            name="LeViT",
        ),
        ir_version=IR_VERSIONS[graph.opset],
        producer_name=TOOL,
    )


def _place(output: str) -> str:
    """The module behind which an output of the network comes."""
    return {OUTPUT_NAME: "head", "features": "pool"}.get(output, f"blocks.{output}")
