"""Prove that an int8 graph is its float graph with rounding added, and nothing else."""

from typing import NoReturn

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from levit_deploy.errors import VerificationError
from levit_deploy.targets.onnx_opsets import ROUNDING_OPS


def check_rounding(quantized: onnx.ModelProto, plain: onnx.ModelProto) -> None:
    """Raise VerificationError if a quantized graph is not its float graph, rounded.

    Every node must be there as it was, and take the same values but for rounding to bytes and back.
    Every rounded weight must be within half a step of the float one.
    """
    graph = _Rounded(quantized)
    nodes = {n.name: n for n in quantized.graph.node if n.op_type not in ROUNDING_OPS}
    originals = {node.name: node for node in plain.graph.node}
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in plain.graph.initializer}
    if odd := sorted(nodes.keys() ^ originals.keys()):
        _refuse(f"{odd[0]} is in one of them only")
    if list(quantized.graph.input) != list(plain.graph.input):
        _refuse("they have other inputs")
    if list(quantized.graph.output) != list(plain.graph.output):
        _refuse("they have other outputs")
    for name, node in originals.items():
        other = nodes[name]
        if _signature(other) != _signature(node):
            _refuse(f"{name} is another operation")
        for given, expected in zip(other.input, node.input, strict=True):
            if expected in weights:
                value, step = graph.weight(given)
                apart = np.abs(value - weights[expected].astype(np.float64))
                # the scale was itself rounded to float32, and weights are up to 127 steps of it
                if value.shape != weights[expected].shape or not np.all(apart <= 0.5001 * step):
                    _refuse(f"{expected} is not the checkpoint's, rounded")
            elif graph.source(given) != expected:
                _refuse(f"{name} takes {given} instead of {expected}")


def _signature(node: onnx.NodeProto) -> tuple[object, ...]:
    attributes = sorted(a.SerializeToString(deterministic=True) for a in node.attribute)
    return node.op_type, node.domain, len(node.input), tuple(node.output), tuple(attributes)


def _refuse(difference: str) -> NoReturn:
    raise VerificationError(
        "The artifact is not the checkpoint's float network with its numbers rounded to int8: "
        f"{difference}. It was made from another checkpoint, by another version, or changed since. "
        "Export it again."
    )


class _Rounded:
    """A quantized graph, and the float values that its values stand for."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.makers = {name: node for node in model.graph.node for name in node.output}
        self.constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}

    def source(self, name: str) -> str:
        """The name of a float value, for itself or for its rounding."""
        back = self.makers.get(name)
        if back is None or back.op_type != "DequantizeLinear":
            return name
        there = self.makers.get(back.input[0])
        if there is None or there.op_type != "QuantizeLinear" or not self._same_grid(there, back):
            _refuse(f"{name} is rounded in one way and read in another")
        return str(there.input[0])

    def _same_grid(self, there: onnx.NodeProto, back: onnx.NodeProto) -> bool:
        scales, zeros = zip(*(self._grid(node) for node in (there, back)), strict=True)
        return (
            all(scale.ndim == 0 and np.isfinite(scale) and scale > 0 for scale in scales)
            and scales[0] == scales[1]
            and zeros[0].dtype == zeros[1].dtype == np.uint8
            and zeros[0] == zeros[1]
        )

    def _grid(self, node: onnx.NodeProto) -> tuple[npt.NDArray[np.generic], ...]:
        if len(node.input) != 3 or not self.constants.keys() >= set(node.input[1:]):
            _refuse(f"{node.name} has no constant scale and zero point")
        scale, zero = (self.constants[name] for name in node.input[1:])
        return scale, zero

    def weight(self, name: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """A constant in float64, and the step it was rounded to, zero for a float one."""
        if name in self.constants:
            return self.constants[name].astype(np.float64), np.zeros(())
        node = self.makers.get(name)
        rounded = node is not None and node.op_type == "DequantizeLinear"
        if node is None or not rounded or node.input[0] not in self.constants:
            _refuse(f"{name} is computed, and was a weight")
        scale, zero = self._grid(node)
        numbers = self.constants[node.input[0]]
        step = scale.astype(np.float64)
        if not np.all(np.isfinite(step) & (step > 0)):
            _refuse(f"{name} is rounded in steps that are no positive numbers")
        if step.ndim == 1 and numbers.ndim > 1:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            sides = [1] * numbers.ndim
            sides[axis] = -1
            step, zero = step.reshape(sides), zero.reshape(sides)
        return (numbers.astype(np.float64) - zero.astype(np.float64)) * step, step
