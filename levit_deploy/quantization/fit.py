"""Fit the rounded weights of a network to pictures, one product after the other."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper

from levit_deploy.arrays import BATCH_SIZE, Images
from levit_deploy.quantization.least_squares import Moments, rounded_together
from levit_deploy.runtime.sessions import onnx_session
from levit_deploy.targets.onnx_int8_writer import Int8Form
from levit_deploy.targets.onnx_rounding import Rounding

MOST_NUMBERS = 64 * 3 * 224 * 224  # of all pictures: what becomes of them is held in memory
ROUNDED = ".weight_DequantizeLinear"

Array = npt.NDArray[Any]
Values = dict[str, Array]


def fitted(form: Int8Form, rounding: Rounding, images: Images) -> Rounding:
    """A rounding with weights by which each product gives nearly what it gives in float.

    A product takes the inputs that int8 has for it, after all products before it have been fitted.
    ``images`` are as the form takes them. If they are many, some are taken, evenly spread.
    """
    most = max(MOST_NUMBERS // math.prod(images.shape[1:]), 1)
    images = images[np.linspace(0, len(images) - 1, min(most, len(images))).astype(int)]
    weights: dict[str, npt.NDArray[np.int8]] = {}
    shared: tuple[str, str] | None = None
    both = (_products(model, images) for model in (form.unrounded(), form.rounded(rounding)))
    for (original, exact), (node, values) in zip(*both, strict=True):
        name = node.input[1].removesuffix(ROUNDED)
        if name == node.input[1]:  # this one stays float
            continue
        weight, scale = exact[original.input[1]], values[f"{name}.weight_scale"]
        inputs = node.input[0], str(node.attribute)
        if inputs != shared:  # q, k and v have the same
            moments = _moments(node, exact[original.input[0]], values[node.input[0]])
            shared = inputs
        numbers = rounded_together(
            weight.reshape(len(weight), -1).astype(np.float64), scale.astype(np.float64), moments
        )
        weights[name] = numbers.reshape(weight.shape)
        columns = scale.reshape(-1, *[1] * (weight.ndim - 1))
        values[node.input[1]] = weights[name] * columns  # what follows takes them, too
    return dataclasses.replace(rounding, weights=weights)


def _moments(node: onnx.NodeProto, exact: Array, rounded: Array) -> Moments:
    """The moments of a product's inputs, over all pictures and positions."""
    inputs = drift = np.zeros(())
    count = 0
    for start in range(0, len(exact), size := BATCH_SIZE if exact.ndim > 2 else len(exact)):
        x, y = (_rows(node, v[start : start + size]).double() for v in (exact, rounded))
        inputs = inputs + (y.T @ y).numpy()
        drift = drift + ((x - y).T @ y).numpy()
        count += len(x)
    return Moments(inputs / count, drift / count)


def _rows(node: onnx.NodeProto, x: Array) -> torch.Tensor:
    """The inputs of a product as rows, one for each position: (rows, inputs)."""
    values = torch.from_numpy(x)
    if node.op_type == "Gemm":
        return values
    options = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    top, left, bottom, right = options["pads"]
    values = torch.nn.functional.pad(values, (left, right, top, bottom))
    values = torch.nn.functional.unfold(values, options["kernel_shape"], stride=options["strides"])
    return values.transpose(1, 2).flatten(0, 1)


def _products(model: onnx.ModelProto, images: Images) -> Iterator[tuple[onnx.NodeProto, Values]]:
    """The products of weights in order, each with its inputs among the values so far.

    What a caller puts into the values is taken for what follows.
    """
    nodes = list(model.graph.node)
    last = {name: i for i, node in enumerate(nodes) for name in node.input}
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    values: Values = {model.graph.input[0].name: images, **constants}
    start = 0
    for end, node in enumerate(nodes):
        if node.op_type in ("Conv", "Gemm"):
            wanted = {name for name in last if last[name] >= end}
            values |= _computed(model, nodes[start:end], values, wanted)
            values = {n: values[n] for n in values if n in wanted or n in constants}
            yield node, values
            start = end


def _computed(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], values: Values, wanted: set[str]
) -> Values:
    """The wanted outputs of a few nodes, one after the other, as onnxruntime computes them."""
    outputs = [name for node in nodes for name in node.output if name in wanted]
    if not outputs:
        return {}
    inputs = values.keys() & {name for node in nodes for name in node.input}
    graph = onnx.helper.make_graph(
        nodes,
        "a few nodes",
        [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(values[name].dtype), None
            )
            for name in inputs
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
    )
    few = onnx.helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )
    session = onnx_session(few.SerializeToString(), literal=True)
    results = session.run(outputs, {name: values[name] for name in inputs})
    return dict(zip(outputs, results, strict=True))
