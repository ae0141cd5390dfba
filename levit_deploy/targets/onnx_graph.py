"""An ONNX graph under construction: named nodes, declared shapes, shared constants."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from torch import nn

from levit_deploy.errors import CheckpointError, LevitDeployError
from levit_deploy.targets.onnx_opsets import ATTENTION_OPSET

Dim = int | str
Shape = Sequence[Dim]
Emitter = Callable[["GraphBuilder", Any, ir.Value, str], ir.Value]


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
        dtype: ir.DataType = ir.DataType.FLOAT,
    ) -> None:
        self.opset = opset
        self.batch = batch
        self.emitters = emitters
        self.dtype = dtype
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}
        self.maps: dict[str, ir.Value] = {}  # of the stages, if the network gives them

    @property
    def has_attention_operator(self) -> bool:
        """Whether attention is one node."""
        return self.opset >= ATTENTION_OPSET

    def emit(self, module: nn.Module, x: ir.Value, name: str) -> ir.Value:
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
        self, op_type: str, inputs: list[ir.Value], name: str, shape: Shape, **attributes: Any
    ) -> ir.Value:
        """Append a node with one output of its first input's type; both are called ``name``."""
        output = ir.val(name, dtype=inputs[0].dtype, shape=shape)
        self.nodes.append(ir.node(op_type, inputs, attributes, outputs=[output], name=name))
        return output

    def like(self, op_type: str, inputs: list[ir.Value], name: str) -> ir.Value:
        """Append an element-wise node; the output has the first input's shape."""
        return self.op(op_type, inputs, name, dims(inputs[0]))

    def reshape(self, x: ir.Value, name: str, shape: Shape) -> ir.Value:
        """Append a Reshape; the batch stays free by being the one dimension left to infer."""
        target = [-1, *(size for size in shape[1:] if isinstance(size, int))]
        return self.op("Reshape", [x, self.integers(target)], name, shape)

    def transpose(self, x: ir.Value, name: str, order: list[int]) -> ir.Value:
        shape = dims(x)
        return self.op("Transpose", [x], name, [shape[axis] for axis in order], perm=order)

    def split(self, x: ir.Value, parts: dict[str, int], axis: int, name: str) -> list[ir.Value]:
        """Append a Split of ``axis`` into named parts of the given sizes."""
        outputs = []
        for part, size in parts.items():
            shape = dims(x)
            shape[axis] = size
            outputs.append(ir.val(part, dtype=self.dtype, shape=shape))
        sizes, inputs = list(parts.values()), [x]
        attributes: dict[str, int | list[int]] = {"axis": axis}
        if self.opset < 13:  # the sizes became an input in opset 13
            attributes["split"] = sizes
        else:
            inputs.append(self.integers(sizes))
        self.nodes.append(ir.node("Split", inputs, attributes, outputs=outputs, name=name))
        return outputs

    def mean(self, x: ir.Value, axes: list[int], name: str, *, keep: bool = False) -> ir.Value:
        """Append a ReduceMean over ``axes``, which are dropped, or have one element if kept."""
        shape = dims(x)
        over = {axis % len(shape) for axis in axes}
        shape = [1 if i in over else size for i, size in enumerate(shape) if keep or i not in over]
        if self.opset < 18:  # the axes became an input in opset 18
            return self.op("ReduceMean", [x], name, shape, axes=axes, keepdims=int(keep))
        return self.op("ReduceMean", [x, self.integers(axes)], name, shape, keepdims=int(keep))

    def weight(self, array: npt.NDArray[np.float32], name: str) -> ir.Value:
        """Add an initializer of ``dtype``.

        Raises CheckpointError for a number too large for it. One too small becomes 0: that is
        rounding, and verification tells whether it matters.
        """
        with np.errstate(over="ignore"):
            rounded = np.ascontiguousarray(array).astype(self.dtype.numpy(), copy=False)
        if np.isinf(rounded).any():
            raise CheckpointError(
                f"{name} holds {np.abs(array).max():.3g} once the layers are fused; the largest "
                "number of float16 is 65504. Export with --precision fp32, or bf16 as PT2."
            )
        return self.constant(rounded, name)

    def operands(
        self, x: ir.Value, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], name: str
    ) -> list[ir.Value]:
        """The inputs of a product: x, the weight (out, in, ...) and the bias (out,)."""
        return [x, self.weight(weight, f"{name}.weight"), self.weight(bias, f"{name}.bias")]

    def finished(self, value: ir.Value, name: str) -> ir.Value:
        """Give an output of the network its name."""
        value.name = name
        return value

    def integers(self, values: list[int]) -> ir.Value:
        """Add an int64 vector, such as a shape; equal vectors are stored once."""
        return self.constant(np.array(values, dtype=np.int64), f"int64.{values}")

    def scalar(self, value: float) -> ir.Value:
        """Add a scalar of ``dtype``; equal ones are stored once."""
        number = np.array(value, dtype=self.dtype.numpy())
        return self.constant(number, f"{number.dtype}.{value}")

    def cast(self, x: ir.Value, name: str, to: ir.DataType) -> ir.Value:
        """Append a Cast."""
        output = ir.val(name, dtype=to, shape=dims(x))
        self.nodes.append(ir.node("Cast", [x], {"to": to}, outputs=[output], name=name))
        return output

    def constant(self, array: npt.NDArray[Any], name: str) -> ir.Value:
        """Add an initializer as it is; equal names are one."""
        if name not in self.initializers:
            self.initializers[name] = ir.val(name, const_value=ir.Tensor(array, name=name))
        return self.initializers[name]


def dims(value: ir.Value) -> list[Dim]:
    """The declared shape of a value made by ``GraphBuilder``."""
    assert value.shape is not None
    sizes: list[Dim] = []
    for size in value.shape:
        if isinstance(size, int):
            sizes.append(size)
        else:
            assert size.value is not None
            sizes.append(size.value)
    return sizes
