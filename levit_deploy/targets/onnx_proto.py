"""Put a finished graph into the message of an ONNX file."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from levit_deploy.provenance import TOOL
from levit_deploy.targets.onnx_graph import GraphBuilder, Node, Value
from levit_deploy.targets.onnx_opsets import IR_VERSIONS


def to_proto(
    graph: GraphBuilder, given: Value, outputs: Sequence[Value], metadata: Mapping[str, str]
) -> onnx.ModelProto:
    """Return the model with everything that its outputs depend on, and nothing else.

    Every value has its declared type and shape.
    """
    nodes = _needed(graph.nodes, outputs)
    read = {id(value) for node in nodes for value in node.inputs}
    proto = onnx.ModelProto(ir_version=IR_VERSIONS[graph.opset], producer_name=TOOL)
    proto.opset_import.add(version=graph.opset)
    onnx.helper.set_model_props(proto, dict(metadata))
    written = proto.graph
    written.name = "LeViT"
    written.node.extend(_node(node) for node in nodes)
    for constant in graph.initializers.values():
        if id(constant) in read:
            _add_initializer(written, constant)
    written.input.append(_declared(given))
    written.output.extend(_declared(value) for value in outputs)
    ends = {id(value) for value in outputs}
    between = (value for node in nodes for value in node.outputs if id(value) not in ends)
    written.value_info.extend(_declared(value) for value in between)
    return proto


def _needed(nodes: Sequence[Node], outputs: Sequence[Value]) -> list[Node]:
    """The nodes that the outputs depend on, in order; others came of what was rounded after all."""
    wanted, needed = {id(value) for value in outputs}, []
    for node in reversed(nodes):
        if any(id(value) in wanted for value in node.outputs):
            wanted.update(id(value) for value in node.inputs)
            needed.append(node)
    return needed[::-1]


def _node(node: Node) -> onnx.NodeProto:
    inputs, outputs = ([value.name for value in part] for part in (node.inputs, node.outputs))
    return onnx.helper.make_node(node.op_type, inputs, outputs, name=node.name, **node.attributes)


def _declared(value: Value) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(value.name, _code(value), value.shape)


def _add_initializer(graph: onnx.GraphProto, constant: Value) -> None:
    """Write the numbers without a tensor between, which would be another copy of all weights."""
    assert constant.array is not None
    little = constant.array.astype(constant.dtype.newbyteorder("<"), copy=False)
    graph.initializer.add(
        name=constant.name,
        dims=constant.array.shape,
        data_type=_code(constant),
        raw_data=np.ascontiguousarray(little).tobytes(),
    )


def _code(value: Value) -> int:
    return onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
