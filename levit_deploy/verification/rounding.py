"""Prove that an int8 graph is its float graph with rounding added, and nothing else."""

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from levit_deploy.errors import VerificationError
from levit_deploy.targets.onnx_opsets import MOVEMENTS, ROUNDING_OPS
from levit_deploy.targets.onnx_rounding import BYTE, Grid, gate_grid

GATE = {"alpha": np.float32(1 / 6), "beta": np.float32(0.5)}


def check_rounding(quantized: onnx.ModelProto, plain: onnx.ModelProto) -> None:
    """Raise VerificationError if a quantized graph is not its float graph, rounded.

    Every node must be there as it was, and take the same values but for rounding to bytes and back.
    Every rounded weight must be within half a step of the float one.

    Bytes may be moved before they are read. And one node may be missing, by an exact identity: the
    gate of a HardSwish, clip((x + 3) / 6, 0, 1). If x is rounded with zero point z and the step
    3 / z, it is 3 (b - z) / z for the byte b. So the gate is clip(b, 0, 2 z) / (2 z): the bytes,
    clipped, and read with zero point 0 and the step 1 / (2 z).
    """
    graph = _Rounded(quantized, plain)
    originals = {node.name: node for node in plain.graph.node}
    nodes = {n.name: n for n in quantized.graph.node if n.name in originals or not _is_rounding(n)}
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in plain.graph.initializer}
    missing = originals.keys() - nodes.keys()
    odd = [name for name in nodes if name not in originals]
    odd += sorted(name for name in missing if not _is_gate(originals[name]))
    if odd:
        _refuse(f"{odd[0]} is in one of them only")
    if list(quantized.graph.input) != list(plain.graph.input):
        _refuse("they have other inputs")
    if list(quantized.graph.output) != list(plain.graph.output):
        _refuse("they have other outputs")
    for name, other in nodes.items():
        node = originals[name]
        if _signature(other) != _signature(node):
            _refuse(f"{name} is another operation")
        for given, expected in zip(other.input, node.input, strict=True):
            if expected in weights:
                value, step = graph.weight(given)
                apart = np.abs(value - weights[expected].astype(np.float64))
                # the scale was itself rounded to float32, and weights are up to 127 steps of it
                if value.shape != weights[expected].shape or not np.all(apart <= 0.5001 * step):
                    _refuse(f"{expected} is not the checkpoint's, rounded")
            elif graph.source(given, other) != expected:
                _refuse(f"{name} takes {given} instead of {expected}")


def _is_rounding(node: onnx.NodeProto) -> bool:
    """Whether a node may be in the rounded graph only."""
    return node.op_type in (*ROUNDING_OPS, "Clip")


def _is_gate(node: onnx.NodeProto) -> bool:
    attributes = {a.name: np.float32(a.f) for a in node.attribute}
    return node.op_type == "HardSigmoid" and attributes == GATE


def _signature(node: onnx.NodeProto) -> tuple[object, ...]:
    attributes = sorted(a.SerializeToString(deterministic=True) for a in node.attribute)
    return node.op_type, node.domain, len(node.input), tuple(node.output), tuple(attributes)


def _refuse(difference: str) -> NoReturn:
    raise VerificationError(
        "The artifact is not the checkpoint's float network with its numbers rounded to int8: "
        f"{difference}. It was made from another checkpoint, by another version, or changed since. "
        "Export it again."
    )


@dataclass(frozen=True)
class _Bytes:
    """Bytes: the float value that they stand for, their grid, and the largest if they are clipped.

    The grid is None for the bytes of a picture, which stand for themselves.
    """

    source: str
    grid: Grid | None
    most: int | None = None


class _Rounded:
    """A quantized graph, and the float values that its values stand for."""

    def __init__(self, model: onnx.ModelProto, plain: onnx.ModelProto) -> None:
        self.makers = {name: node for node in model.graph.node for name in node.output}
        self.constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.pixels = {
            value.name
            for value in model.graph.input
            if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        }
        self.originals = {node.name for node in plain.graph.node}
        self.gates = {n.input[0]: n.output[0] for n in plain.graph.node if _is_gate(n)}

    def source(self, name: str, reader: onnx.NodeProto) -> str | None:
        """The float value that a value stands for, or the moved one if ``reader`` takes bytes."""
        if reader.op_type in (*MOVEMENTS, "DequantizeLinear"):
            moved = self._bytes(name)
            if moved is not None:
                return moved.source if moved.most is None else None
        maker = self.makers.get(name)
        if maker is not None and maker.op_type == "DequantizeLinear":
            return name if maker.name in self.originals else self._read(maker)
        return name if self._bytes(name) is None else None

    def _read(self, node: onnx.NodeProto) -> str | None:
        """The float value that bytes are read as."""
        number, grid = self._bytes(node.input[0]), self._grid(node)
        if number is not None and number.grid is not None:
            if number.most is None and number.grid == grid:
                return number.source
            if number.grid.is_gated and grid == gate_grid(number.grid):
                clipped = 2 * number.grid.zero_point
                if number.most == clipped or (number.most is None and clipped >= BYTE):
                    return self.gates.get(number.source)
        _refuse(f"{node.name} reads numbers otherwise than they were rounded")

    def _bytes(self, name: str) -> _Bytes | None:
        """The bytes of this name; None if it is a float value."""
        if name in self.pixels:
            return _Bytes(name, None)
        node = self.makers.get(name)
        if node is None or node.op_type not in ("QuantizeLinear", "Clip", *MOVEMENTS):
            return None
        if node.op_type == "QuantizeLinear":
            return _Bytes(node.input[0], self._grid(node))
        number = self._bytes(node.input[0])
        if number is None or number.most is not None:
            return None
        if node.op_type == "Clip":
            least, most = (self.constants.get(end, np.array(-1)) for end in node.input[1:])
            return _Bytes(number.source, number.grid, int(most) if int(least) == 0 else -1)
        return _Bytes(name, number.grid)

    def _grid(self, node: onnx.NodeProto) -> Grid:
        scale, zero_point = self._steps(node)
        if scale.ndim or zero_point.dtype != np.uint8 or not (np.isfinite(scale) and scale > 0):
            _refuse(f"{node.name} rounds to no grid of bytes")
        return Grid(float(scale), int(zero_point))

    def _steps(self, node: onnx.NodeProto) -> tuple[npt.NDArray[Any], ...]:
        if len(node.input) != 3 or not self.constants.keys() >= set(node.input[1:]):
            _refuse(f"{node.name} has no constant scale and zero point")
        return tuple(self.constants[name] for name in node.input[1:])

    def weight(self, name: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """A constant in float64, and the step it was rounded to, zero for a float one."""
        if name in self.constants:
            return self.constants[name].astype(np.float64), np.zeros(())
        node = self.makers.get(name)
        rounded = node is not None and node.op_type == "DequantizeLinear"
        if node is None or not rounded or node.input[0] not in self.constants:
            _refuse(f"{name} is computed, and was a weight")
        scale, zero = self._steps(node)
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
