"""An ONNX graph under construction: named nodes, declared shapes, shared constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from torch import nn

from levit_deploy.errors import CheckpointError, LevitDeployError
from levit_deploy.targets.onnx_opsets import ATTENTION_OPSET

Dim = int | str
Shape = Sequence[Dim]
Numbers = npt.NDArray[Any]

TYPED_BY = {"DequantizeLinear": 1, "QuantizeLinear": 2}  # the scale, the zero point


@dataclass(eq=False)
class Value:
    """A value of the graph: its name, the type of its numbers, and its shape.

    ``array`` has the numbers of a constant.
    """

    name: str  # not final: an output of the network gets its own at the end
    dtype: np.dtype[Any]
    shape: tuple[Dim, ...]
    array: Numbers | None = None


@dataclass(frozen=True)
class Node:
    """A node of the graph."""

    op_type: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    name: str
    attributes: Mapping[str, Any]


Emitter = Callable[["GraphBuilder", Any, Value, str], Value]


class GraphBuilder:
    """Appends nodes in order, of the standard operator set ``opset`` only.

    Every node declares the shape of its output, which the checker compares with its own inference.
    ``batch`` is a number, or the name of the dynamic dimension. ``emitters`` has the
    function for each module type. ``dtype`` is the number format inside.
    """

    def __init__(
        self,
        opset: int,
        batch: Dim,
        emitters: Mapping[type[nn.Module], Emitter],
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        self.opset = opset
        self.batch = batch
        self.emitters = emitters
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.nodes: list[Node] = []
        self.initializers: dict[str, Value] = {}
        self.maps: dict[str, Value] = {}  # of the stages, if the network gives them

    @property
    def has_attention_operator(self) -> bool:
        """Whether attention is one node."""
        return self.opset >= ATTENTION_OPSET

    def emit(self, module: nn.Module, x: Value, name: str) -> Value:
        """Append ``module``; its values are named after ``name``, its name in the checkpoint."""
        emitter = self.emitters.get(type(module))
        if emitter is None:
            raise LevitDeployError(
                f"{name} is a {type(module).__name__}, which no ONNX emitter knows. The passes "
                "should have replaced it."
            )
        return emitter(self, module, x, name)

    def rows(self, tokens: int) -> Dim:
        """The first dimension of a batch of ``tokens`` tokens, flattened."""
        return self.batch * tokens if isinstance(self.batch, int) else f"{self.batch}*{tokens}"

    def op(
        self, op_type: str, inputs: list[Value], name: str, shape: Shape, **attributes: Any
    ) -> Value:
        """Append a node with one output, of its first input's type mostly; both are ``name``."""
        output = Value(name, inputs[TYPED_BY.get(op_type, 0)].dtype, tuple(shape))
        self.nodes.append(Node(op_type, tuple(inputs), (output,), name, attributes))
        return output

    def like(self, op_type: str, inputs: list[Value], name: str) -> Value:
        """Append an element-wise node; the output has the first input's shape."""
        return self.op(op_type, inputs, name, dims(inputs[0]))

    def reshape(self, x: Value, name: str, shape: Shape) -> Value:
        """Append a Reshape; the batch stays free by being the one dimension left to infer."""
        target = [-1, *(size for size in shape[1:] if isinstance(size, int))]
        return self.op("Reshape", [x, self.integers(target)], name, shape)

    def transpose(self, x: Value, name: str, order: list[int]) -> Value:
        shape = dims(x)
        return self.op("Transpose", [x], name, [shape[axis] for axis in order], perm=order)

    def split(self, x: Value, parts: dict[str, int], axis: int, name: str) -> list[Value]:
        """Append a Split of ``axis`` into named parts of the given sizes."""
        outputs = []
        for part, size in parts.items():
            shape = dims(x)
            shape[axis] = size
            outputs.append(Value(part, self.dtype, tuple(shape)))
        sizes, inputs = list(parts.values()), [x]
        attributes: dict[str, int | list[int]] = {"axis": axis}
        if self.opset < 13:  # the sizes became an input in opset 13
            attributes["split"] = sizes
        else:
            inputs.append(self.integers(sizes))
        self.nodes.append(Node("Split", tuple(inputs), tuple(outputs), name, attributes))
        return outputs

    def mean(self, x: Value, axes: list[int], name: str, *, keep: bool = False) -> Value:
        """Append a ReduceMean over ``axes``, which are dropped, or have one element if kept."""
        shape = dims(x)
        over = {axis % len(shape) for axis in axes}
        shape = [1 if i in over else size for i, size in enumerate(shape) if keep or i not in over]
        if self.opset < 18:  # the axes became an input in opset 18
            return self.op("ReduceMean", [x], name, shape, axes=axes, keepdims=int(keep))
        return self.op("ReduceMean", [x, self.integers(axes)], name, shape, keepdims=int(keep))

    def weight(self, array: npt.NDArray[np.float32], name: str) -> Value:
        """Add an initializer of ``dtype``.

        Raises CheckpointError for a number too large for it. One too small becomes 0: that is
        rounding, and verification tells whether it matters.
        """
        with np.errstate(over="ignore"):
            rounded = np.ascontiguousarray(array).astype(self.dtype, copy=False)
        if np.isinf(rounded).any():
            raise CheckpointError(
                f"{name} holds {np.abs(array).max():.3g} once the layers are fused; the largest "
                "number of float16 is 65504. Export with --precision fp32, or bf16 as PT2."
            )
        return self.constant(rounded, name)

    def operands(
        self, x: Value, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], name: str
    ) -> list[Value]:
        """The inputs of a product: x, the weight (out, in, ...) and the bias (out,)."""
        return [x, self.weight(weight, f"{name}.weight"), self.weight(bias, f"{name}.bias")]

    def finished(self, value: Value, name: str) -> Value:
        """Give an output of the network its name."""
        value.name = name
        return value

    def integers(self, values: list[int]) -> Value:
        """Add an int64 vector, such as a shape; equal vectors are stored once."""
        return self.constant(np.array(values, dtype=np.int64), f"int64.{values}")

    def scalar(self, value: float) -> Value:
        """Add a scalar of ``dtype``; equal ones are stored once."""
        number = np.array(value, dtype=self.dtype)
        return self.constant(number, f"{number.dtype}.{value}")

    def cast(self, x: Value, name: str, to: npt.DTypeLike) -> Value:
        """Append a Cast."""
        output = Value(name, np.dtype(to), x.shape)
        code = onnx.helper.np_dtype_to_tensor_dtype(output.dtype)
        self.nodes.append(Node("Cast", (x,), (output,), name, {"to": code}))
        return output

    def constant(self, array: Numbers, name: str) -> Value:
        """Add an initializer as it is; equal names are one."""
        if name not in self.initializers:
            self.initializers[name] = Value(name, array.dtype, array.shape, array)
        return self.initializers[name]


def dims(value: Value) -> list[Dim]:
    """The declared shape of a value made by ``GraphBuilder``."""
    return list(value.shape)
