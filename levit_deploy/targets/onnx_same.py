"""Compare an ONNX file with the network that was exported again, node by node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import onnx
from onnx import numpy_helper

from levit_deploy.errors import first_line
from levit_deploy.targets.same_numbers import Numbers, difference_of_tensors
from levit_deploy.targets.target import ExportOptions

Nodes = dict[tuple[str, ...], onnx.NodeProto]  # by their outputs


def chosen(options: ExportOptions, data: bytes) -> ExportOptions:
    """Return options with the operator set of a file, and its names if they are not the usual."""
    model = onnx.load_model_from_string(data)
    interface, graph = options.interface(), model.graph
    opsets = [used.version for used in model.opset_import if used.domain == ""]
    given = [value.name for value in graph.input], [value.name for value in graph.output]
    usual = interface.input_name, interface.output
    input_name, output_name = (
        names[0] if len(names) == 1 and names != [own] else None
        for names, own in zip(given, usual, strict=True)
    )
    return replace(
        options,
        opset=opsets[0] if opsets else None,
        input_name=input_name,
        output_name=None if interface.output == "feature-maps" else output_name,
    )


def difference(data: bytes, least: bytes, most: bytes) -> str:
    """Return the first difference of a file from two others, in words; empty if there is none.

    The order of the nodes, their names and the metadata may differ, and declared shapes of values
    inside may be missing.
    """
    given, wanted, other = (onnx.load_model_from_string(each) for each in (data, least, most))
    for difference in _differences_of_graphs(given, wanted):
        return difference
    try:
        return difference_of_tensors(*(_weights(model) for model in (given, wanted, other)))
    except (TypeError, ValueError, KeyError) as error:
        return f"a weight cannot be read ({first_line(error)})"


def _weights(model: onnx.ModelProto) -> dict[str, Numbers]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _differences_of_graphs(given: onnx.ModelProto, wanted: onnx.ModelProto) -> Iterator[str]:
    if sorted(map(str, given.opset_import)) != sorted(map(str, wanted.opset_import)):
        yield "it has other operator sets"
    for ends in ("input", "output"):
        if list(getattr(given.graph, ends)) != list(getattr(wanted.graph, ends)):
            yield f"it has other {ends}s, or declares them otherwise"
    yield from _differences_of_nodes(_nodes(given.graph), _nodes(wanted.graph))
    values = [name for node in given.graph.node for name in node.output]
    values += [tensor.name for tensor in given.graph.initializer]
    values += [value.name for value in given.graph.input]
    for name in (name for name, count in Counter(values).items() if count > 1):
        yield f"{name} comes from two places"
    for part in (given.functions, given.training_info, given.graph.sparse_initializer):
        if len(part):
            yield "it has functions, sparse weights or steps of training"
    if given.ir_version != wanted.ir_version:
        yield f"its IR version is {given.ir_version} instead of {wanted.ir_version}"
    declared = {value.name: value.type for value in wanted.graph.value_info}
    for value in given.graph.value_info:
        if value.name in declared and value.type != declared[value.name]:
            yield f"{value.name} is declared otherwise"


def _nodes(graph: onnx.GraphProto) -> Nodes:
    return {tuple(node.output): node for node in graph.node}


def _differences_of_nodes(given: Nodes, wanted: Nodes) -> Iterator[str]:
    for outputs, node in given.items():
        if outputs not in wanted:
            yield f"the node {_name(node)} is one more, or gives other values"
            continue
        expected = wanted[outputs]
        if _operator(node) != _operator(expected):
            yield f"the node {_name(node)} is {_operator(node)} instead of {_operator(expected)}"
        if list(node.input) != list(expected.input):
            yield (
                f"the node {_name(node)} takes {', '.join(node.input)} instead of "
                f"{', '.join(expected.input)}"
            )
        if _attributes(node) != _attributes(expected):
            yield f"the node {_name(node)} has other attributes"
    for node in (node for outputs, node in wanted.items() if outputs not in given):
        yield f"the node {_name(node)} is missing"


def _name(node: onnx.NodeProto) -> str:
    return node.name or ", ".join(node.output)


def _operator(node: onnx.NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else str(node.op_type)


def _attributes(node: onnx.NodeProto) -> list[bytes]:
    return sorted(each.SerializeToString(deterministic=True) for each in node.attribute)
