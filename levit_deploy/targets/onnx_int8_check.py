"""Prove that an int8 graph is its float graph with rounding added, and nothing else."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from levit_deploy.choices import known
from levit_deploy.errors import ArtifactError, VerificationError
from levit_deploy.model import LeViT
from levit_deploy.provenance import Provenance
from levit_deploy.targets.onnx_ends import with_usual_names
from levit_deploy.targets.onnx_int8_writer import int8_form
from levit_deploy.targets.onnx_opsets import MOVEMENTS, OPSETS, ROUNDING_OPS
from levit_deploy.targets.onnx_rounding import BYTE, KINDS, LEAST_SCALE, Grid, Kind, gate_grid
from levit_deploy.targets.target import ExportOptions, Int8Standard

READ = "DequantizeLinear"
GATE = {"alpha": np.float32(1 / 6), "beta": np.float32(0.5)}
A_STEP = 1.0001  # the scale was itself rounded to float32, and weights are up to 127 of it
HALF_A_STEP = 0.5001
# steps of the largest number; pairs of neighbours may have to share the 127 of signed bytes
LEAST = {"int8": 63, "uint8": 63, "uint16": 2**14}
LEAST_WEIGHT = 2**16 * LEAST_SCALE  # smaller ones may be in any steps
LEAST_OF_32_BITS = 2.0**29  # of a bias for which its channel's weights have larger steps


def int8_standard(
    model: LeViT, provenance: Provenance, options: ExportOptions, path: Path, data: bytes
) -> Int8Standard:
    """Return the float form of a rounded file, and the file itself, computed node by node.

    The form is written again from the plain network, with the file's operator set. Raises
    VerificationError as ``check_rounding`` does, ArtifactError if the file has no such set.
    """
    rounded = onnx.load_model_from_string(data)
    opset = next((used.version for used in rounded.opset_import if used.domain == ""), None)
    if opset not in OPSETS:
        raise ArtifactError(
            f"{path} has opset {opset}. Expected one of {OPSETS[0]} to {OPSETS[-1]}. Export it "
            "again."
        )
    plain = int8_form(model, provenance, replace(options, opset=opset)).unrounded()
    check_rounding(with_usual_names(rounded, provenance.interface), plain)
    return Int8Standard(unrounded=plain.SerializeToString(deterministic=True))


def check_rounding(quantized: onnx.ModelProto, plain: onnx.ModelProto) -> None:
    """Raise VerificationError if a quantized graph is not its float graph, rounded.

    Every node must be there as it was, and take the same values but for rounding to whole numbers
    and back. So must the outputs be. A rounded weight of a product is one of the two bytes beside
    the float one, and any other number is the nearest. The largest weight of a channel is 63 steps
    or more, so that no step is too coarse, and that of a constant of 16 bits 2 ** 14. A rounded
    bias is a whole number of the steps of its product, the input's times the weight's. Only if a
    bias of nearly 32 bits asks for larger steps, its channel's weights have them.

    Bytes may be moved before they are read. And one node may be missing, by an exact identity: the
    gate of a HardSwish, clip((x + 3) / 6, 0, 1). If x is rounded with zero point z and the step
    3 / z, it is 3 (b - z) / z for the byte b. So the gate is clip(b, 0, 2 z) / (2 z): the bytes,
    clipped, and read with zero point 0 and the step 1 / (2 z).
    """
    graph = _Rounded(quantized, plain)
    _require_own_names(quantized, plain, {*graph.ends.values()})
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
    if list(quantized.opset_import) != list(plain.opset_import):
        _refuse("they have other operator sets")
    for name, other in nodes.items():
        node = originals[name]
        given_names = tuple(graph.named(output) for output in other.output)
        if (_signature(other), given_names) != (_signature(node), tuple(node.output)):
            _refuse(f"{name} is another operation")
        for given, expected in zip(other.input, node.input, strict=True):
            if expected in weights:
                if not graph.is_weight(given, weights[expected], other):
                    _refuse(f"{expected} is not the checkpoint's, rounded")
            elif graph.source(given, other) != expected:
                _refuse(f"{name} takes {given} instead of {expected}")


def _require_own_names(quantized: onnx.ModelProto, plain: onnx.ModelProto, ends: set[str]) -> None:
    """Refuse names that are given twice, and values of the float graph that come from elsewhere.

    ``ends`` are rounded outputs, which are read from values of another name.
    """
    graph, originals = quantized.graph, {node.name for node in plain.graph.node}
    added = [node for node in graph.node if node.name not in originals]
    nodes = [node.name for node in graph.node if node.name in originals]
    stored = [value.name for value in graph.initializer]
    values = [value.name for value in graph.input] + stored
    values += [name for node in graph.node for name in node.output]
    computed = {name for node in plain.graph.node for name in node.output}
    elsewhere = computed & {*stored, *(name for node in added for name in node.output)} - ends
    twice = [name for names in (nodes, values) for name, n in Counter(names).items() if n > 1]
    if wrong := [*twice, *sorted(elsewhere), *(t.values.name for t in graph.sparse_initializer)]:
        _refuse(f"{wrong[0]} comes from two places, or from another")


def _is_rounding(node: onnx.NodeProto) -> bool:
    """Whether a node may be in the rounded graph only."""
    is_standard = not node.domain and {a.name for a in node.attribute} <= {"axis"}
    return is_standard and node.op_type in (*ROUNDING_OPS, "Clip")


def _is_gate(node: onnx.NodeProto) -> bool:
    attributes = {a.name: np.float32(a.f) for a in node.attribute}
    return node.op_type == "HardSigmoid" and attributes == GATE


def _signature(node: onnx.NodeProto) -> tuple[object, ...]:
    attributes = sorted(a.SerializeToString(deterministic=True) for a in node.attribute)
    return node.op_type, node.domain, len(node.input), tuple(attributes)


def _refuse(difference: str) -> NoReturn:
    raise VerificationError(
        "The artifact is not the checkpoint's float network with its numbers rounded: "
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
        # rounded outputs, by the values that they are read from, each given by a node of the float
        # graph: so it is compared with the node that gives the output there
        self.ends: dict[str, str] = {}
        for name in (name for node in plain.graph.node for name in node.output):
            maker = self.makers.get(name)
            if maker is not None and self._is_reading(maker):
                source = str(self._read(maker))
                if source in self.makers and self.makers[source].name in self.originals:
                    self.ends[source] = name

    def named(self, value: str) -> str:
        """The name in the float graph of a value that is computed."""
        return self.ends.get(value, value)

    def _is_reading(self, node: onnx.NodeProto) -> bool:
        """Whether a node reads what was rounded here, and not in the float graph."""
        return node.op_type == READ and node.name not in self.originals

    def source(self, name: str, reader: onnx.NodeProto) -> str | None:
        """The float value that a value stands for, or the moved one if ``reader`` takes bytes."""
        source = self._source(name, reader)
        return None if source is None else self.named(source)

    def _source(self, name: str, reader: onnx.NodeProto) -> str | None:
        if reader.op_type in (*MOVEMENTS, READ):
            moved = self._bytes(name)
            if moved is not None:
                return moved.source if moved.most is None else None
        maker = self.makers.get(name)
        if maker is not None and self._is_reading(maker):
            return self._read(maker)
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
            ends = [self.constants.get(end) for end in node.input[1:]]
            least, most = (_byte(end) for end in ends) if len(ends) == 2 else (None, None)
            return _Bytes(number.source, number.grid, -1 if least != 0 or most is None else most)
        return _Bytes(name, number.grid)

    def _grid(self, node: onnx.NodeProto) -> Grid:
        scale, zero_point = self._steps(node)
        kind = _kind(zero_point)
        if scale.ndim or kind is None or not (np.isfinite(scale) and scale > 0):
            _refuse(f"{node.name} rounds to no grid of whole numbers")
        if kind == "int8" and zero_point != 0:
            _refuse(f"{node.name} rounds to signed bytes that are not around 0")
        return Grid(float(scale), int(zero_point), kind)

    def _steps(self, node: onnx.NodeProto) -> tuple[npt.NDArray[Any], ...]:
        if len(node.input) != 3 or not self.constants.keys() >= set(node.input[1:]):
            _refuse(f"{node.name} has no constant scale and zero point")
        return tuple(self.constants[name] for name in node.input[1:])

    def is_weight(self, name: str, weight: npt.NDArray[Any], reader: onnx.NodeProto) -> bool:
        """Whether a value is a weight of the float graph, or that weight rounded."""
        if name in self.constants:
            value = self.constants[name]
            return value.dtype == weight.dtype and np.array_equal(value, weight)
        rounded = self._weight(name)
        if rounded.numbers.shape != weight.shape:
            return False
        apart = np.abs(rounded.numbers * rounded.step - weight.astype(np.float64))
        nearest = rounded.least is None or rounded.axis is None
        if not np.all(apart <= (HALF_A_STEP if nearest else A_STEP) * rounded.step):
            return False
        if rounded.least is None:
            return self._is_in_steps_of(rounded, reader)
        fills_range = rounded.fills_range(weight, rounded.least)
        return bool(np.all(fills_range | self._has_long_bias(rounded, reader)))

    def _is_in_steps_of(self, bias: _RoundedWeight, product: onnx.NodeProto) -> bool:
        """Whether a bias is in the steps of the sums it is added to."""
        maker = self.makers.get(product.input[0])
        while maker is not None and maker.op_type in MOVEMENTS:  # the floats, after they were read
            maker = self.makers.get(maker.input[0])
        if maker is None or maker.op_type != READ:
            return False
        step = self._grid(maker).scale * self._weight(product.input[1]).step.ravel()
        return bool(np.allclose(bias.step, step, rtol=1e-6, atol=0))

    def _has_long_bias(
        self, rounded: _RoundedWeight, product: onnx.NodeProto
    ) -> npt.NDArray[np.bool_]:
        """Whether the bias of each channel needs nearly all of its 32 bits."""
        if len(product.input) < 3 or product.input[2] in self.constants or rounded.axis != 0:
            return np.zeros((), bool)
        numbers = self._weight(product.input[2]).numbers
        return np.asarray(np.abs(numbers) >= LEAST_OF_32_BITS)

    def _weight(self, name: str) -> _RoundedWeight:
        """The numbers behind a float value that was a weight."""
        node = self.makers.get(name)
        is_read = node is not None and node.op_type == READ
        if node is None or not is_read or node.input[0] not in self.constants:
            _refuse(f"{name} is computed, and was a weight")
        scale, zero = self._steps(node)
        numbers, step = self.constants[node.input[0]], scale.astype(np.float64)
        if not np.all(np.isfinite(step) & (step > 0)):
            _refuse(f"{name} is rounded in steps that are no positive numbers")
        is_bias = numbers.dtype == np.int32
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1) if step.ndim else None
        if (
            step.ndim > 1
            or zero.shape != step.shape
            or str(numbers.dtype) not in ("int32", *LEAST)
            or zero.dtype != numbers.dtype
            or (is_bias and zero.any())
            or (axis is not None and numbers.shape[axis : axis + 1] != step.shape)
        ):
            _refuse(f"{name} is rounded to no bytes, or not by one step for each of its channels")
        if axis is not None:
            sides = [len(step) if side == axis else 1 for side in range(numbers.ndim)]
            step, zero = step.reshape(sides), zero.reshape(sides)
        least = LEAST.get(str(numbers.dtype))
        return _RoundedWeight(numbers.astype(np.float64) - zero, step, axis, least)


@dataclass(frozen=True)
class _RoundedWeight:
    """Whole numbers with the zero point taken off, and their steps.

    ``axis`` is that of the channels, None if all have one step. ``least`` is the number of steps
    that the largest of a channel has at least, None for a bias of 32 bits.
    """

    numbers: npt.NDArray[np.float64]
    step: npt.NDArray[np.float64]
    axis: int | None
    least: int | None

    def fills_range(self, weight: npt.NDArray[Any], least: int) -> npt.NDArray[np.bool_]:
        """Whether the numbers of each channel are large enough; zeros may be in any steps."""
        largest, own = (self._largest(numbers) for numbers in (self.numbers, weight))
        return np.asarray((largest >= least) | (own < LEAST_WEIGHT))

    def _largest(self, numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
        sides = tuple(side for side in range(numbers.ndim) if side != self.axis)
        return np.asarray(np.abs(numbers).max(sides))


def _byte(number: npt.NDArray[Any] | None) -> int | None:
    """The value of one unsigned byte; None for anything else."""
    return int(number) if number is not None and _kind(number) == "uint8" else None


def _kind(number: npt.NDArray[Any]) -> Kind | None:
    """The kind of a whole number that activations may be rounded to; None for anything else."""
    return None if number.ndim else known(str(number.dtype), KINDS)
