"""Build a LiteRT graph operator by operator, and write it as a flatbuffer.

The schema is that of the runtime itself, which the package ai-edge-litert brings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from torch import nn

from levit_deploy.arrays import FloatArray
from levit_deploy.provenance import TOOL

SIGNATURE = "serving_default"  # the one that readers of signatures look for
STEPS = 127  # of a rounded weight, on either side of zero

_TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "int32": schema.TensorType.INT32,
    "int8": schema.TensorType.INT8,
    "uint8": schema.TensorType.UINT8,
}
NUMPY_TYPES = {code: np.dtype(name) for name, code in _TYPES.items()}
_SCHEMA_VERSION = 3
_ALIGNMENT = 16  # of the numbers in a file, as the schema asks


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: its place in the list of them, and its shape."""

    place: int
    shape: tuple[int, ...]


Emitter = Callable[["GraphBuilder", Any, Value, str], Value]


class GraphBuilder:
    """A graph that grows by one operator at a time.

    ``rounds`` gives the weights of linear layers and convolutions as int8, a scale for each output
    channel. The runtime then rounds their inputs as they come, and sums the products as integers.
    """

    def __init__(
        self, batch: int, emitters: Mapping[type[nn.Module], Emitter], *, rounds: bool = False
    ) -> None:
        self.batch, self.rounds = batch, rounds
        self.maps: dict[str, Value] = {}
        self._emitters = emitters
        self._tensors: list[Any] = []
        self._buffers: list[Any] = [_Buffer()]  # the first is that of every tensor without numbers
        self._operators: list[Any] = []
        self._codes: dict[tuple[int, int], int] = {}

    def emit(self, module: nn.Module, x: Value, name: str) -> Value:
        """Append a module."""
        return self._emitters[type(module)](self, module, x, name)

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str = "float32",
        numbers: npt.NDArray[Any] | None = None,
        quantization: Any = None,
    ) -> Value:
        """Append a tensor; one with ``numbers`` is a constant."""
        place = 0
        if numbers is not None:
            place = len(self._buffers)
            self._buffers.append(_Buffer(np.ascontiguousarray(numbers).tobytes()))
        self._tensors.append(
            schema.TensorT(
                shape=list(shape),
                type=_TYPES[dtype],
                buffer=place,
                name=name,
                quantization=quantization,
                hasRank=True,
            )
        )
        return Value(len(self._tensors) - 1, tuple(shape))

    def constant(self, numbers: npt.NDArray[Any], name: str) -> Value:
        """Append a constant in the type that it has."""
        return self.tensor(name, numbers.shape, str(numbers.dtype), numbers)

    def integers(self, numbers: Sequence[Any], name: str) -> Value:
        """Append a constant of int32."""
        return self.constant(np.array(numbers, np.int32), name)

    def weight(self, numbers: FloatArray, name: str) -> Value:
        """Append the weight of a layer, output channels first: rounded, if that is asked for."""
        if not self.rounds:
            return self.constant(numbers, name)
        rounded, scales = rounded_weight(numbers)
        quantization = schema.QuantizationParametersT(
            scale=scales, zeroPoint=np.zeros(len(scales), np.int64), quantizedDimension=0
        )
        return self.tensor(name, numbers.shape, "int8", rounded, quantization)

    def op(
        self,
        kind: str,
        inputs: Sequence[Value],
        name: str,
        shape: Sequence[int],
        options: Any = None,
        version: int = 1,
    ) -> Value:
        """Append an operator with one output of float32."""
        output = self.tensor(name, shape)
        code = getattr(schema.BuiltinOperator, kind)
        place = self._codes.setdefault((code, version), len(self._codes))
        operator = schema.OperatorT(
            opcodeIndex=place, inputs=[value.place for value in inputs], outputs=[output.place]
        )
        if options is not None:
            options_type = type(options).__name__.removesuffix("T")
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, options_type)
        self._operators.append(operator)
        return output

    def like(self, kind: str, inputs: Sequence[Value], name: str, options: Any = None) -> Value:
        """Append an operator whose output has the shape of its first input."""
        return self.op(kind, inputs, name, inputs[0].shape, options)

    def reshape(self, x: Value, name: str, shape: Sequence[int]) -> Value:
        """Append a reshape, unless the shape is the same."""
        if x.shape == tuple(shape):
            return x
        options = schema.ReshapeOptionsT(newShape=list(shape))
        return self.op("RESHAPE", [x, self.integers(shape, f"{name}.shape")], name, shape, options)

    def transpose(self, x: Value, name: str, order: Sequence[int]) -> Value:
        """Append a transpose."""
        inputs = [x, self.integers(order, f"{name}.order")]
        shape = [x.shape[axis] for axis in order]
        return self.op("TRANSPOSE", inputs, name, shape, schema.TransposeOptionsT())

    def mean(self, x: Value, axis: int, name: str, *, keep: bool = False) -> Value:
        """Append the mean over an axis."""
        shape = [*x.shape[:axis], *([1] if keep else []), *x.shape[axis + 1 :]]
        inputs = [x, self.integers([axis], f"{name}.axis")]
        return self.op("MEAN", inputs, name, shape, schema.ReducerOptionsT(keepDims=keep))

    def rename(self, value: Value, name: str) -> None:
        """Give a tensor another name."""
        self._tensors[value.place].name = name

    def to_bytes(
        self, inputs: Mapping[str, Value], outputs: Mapping[str, Value], metadata: Mapping[str, str]
    ) -> bytes:
        """Write the graph: the same bytes every time, and cheaply."""
        codes = [
            schema.OperatorCodeT(
                deprecatedBuiltinCode=min(code, 127), version=version, builtinCode=code
            )
            for code, version in self._codes
        ]
        graph = schema.SubGraphT(
            tensors=self._tensors,
            inputs=[value.place for value in inputs.values()],
            outputs=[value.place for value in outputs.values()],
            operators=self._operators,
            name="main",
        )
        signature = schema.SignatureDefT(
            inputs=_named(inputs), outputs=_named(outputs), signatureKey=SIGNATURE
        )
        strings = json.dumps(dict(metadata), sort_keys=True, ensure_ascii=False).encode()
        model = schema.ModelT(
            version=_SCHEMA_VERSION,
            operatorCodes=codes,
            subgraphs=[graph],
            description="LeViT",
            buffers=[*self._buffers, _Buffer(strings)],
            metadata=[schema.MetadataT(name=TOOL, buffer=len(self._buffers))],
            signatureDefs=[signature],
        )
        builder = flatbuffers.Builder(sum(len(b.content) for b in model.buffers) + 2**20)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


def rounded_weight(numbers: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """A weight, output channels first, in int8, and the scale of each channel."""
    rows = numbers.reshape(len(numbers), -1).astype(np.float64)
    largest = np.abs(rows).max(axis=1, initial=0)
    scales = (np.where(largest > 0, largest, 1) / STEPS).astype(np.float32)
    rounded = np.rint(rows / scales[:, None].astype(np.float64)).clip(-STEPS, STEPS)
    return rounded.astype(np.int8).reshape(numbers.shape), scales


def _named(values: Mapping[str, Value]) -> list[Any]:
    return [schema.TensorMapT(name=name, tensorIndex=v.place) for name, v in values.items()]


class _Buffer(schema.BufferT):  # type: ignore[misc]
    """The numbers of a constant, aligned in the file; the generated code does not align them."""

    def __init__(self, content: bytes = b"") -> None:
        super().__init__()
        self.content = content

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802
        if self.content:
            builder.StartVector(1, len(self.content), _ALIGNMENT)
            head = builder.Head() - len(self.content)
            builder.head = head
            builder.Bytes[head : head + len(self.content)] = self.content
            numbers = builder.EndVector()
        schema.BufferStart(builder)
        if self.content:
            schema.BufferAddData(builder, numbers)
        place: int = schema.BufferEnd(builder)
        return place
