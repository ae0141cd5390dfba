"""A graph under construction in which every value is rounded, as compilers for NPUs expect it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from levit_deploy.interface import INPUT_NAME, PIXELS, PROBABILITIES
from levit_deploy.targets.onnx_graph import GraphBuilder, Shape, Value
from levit_deploy.targets.onnx_int8_graph import Int8Builder
from levit_deploy.targets.onnx_opsets import MOVEMENTS
from levit_deploy.targets.onnx_rounding import (
    Grid,
    Kind,
    Range,
    grid_of,
    range_of,
    rounded_activations,
)

WIDER = 1 + 1e-5  # by less than a step, so that no constant is cut off


class EveryValueBuilder(Int8Builder):
    """Rounds each value that a node takes, and what the network gives.

    So every node stands between numbers that are read and numbers that are rounded. A node that
    moves values rounds them to the grid on which they are already, which changes nothing.
    Constants such as the bias of attention are rounded like activations. A part is a layer, or a
    node that is in no layer. The softmax behind the network stays float.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._origins: dict[str, str] = {}  # of values that have the numbers of another
        self._within: dict[str, Range] = {}  # ranges that are known
        self._parameters: set[str] = set()

    @property
    def has_attention_operator(self) -> bool:
        """False: few compilers know the operator, and inside it nothing is rounded."""
        return False

    def rounded(
        self,
        x: Value,
        part: str,
        *,
        gated: bool = False,
        within: Range | None = None,
        kind: Kind | None = None,
    ) -> Value:
        """Append the rounding of ``x`` for ``part``, as every node does of what it takes."""
        del gated, kind  # a HardSwish is one node here, and all numbers are of one kind
        origin = self._origin(x)
        if within is not None:
            self._within[origin] = within
        if origin not in self._within:
            self.points.add(origin)
        if not self.rounds(part) or self.rounding is None:
            return x
        if x.name in self._bytes:
            return x
        if x.name not in self._read:
            between = self._within.get(origin) or self.rounding.ranges[origin]
            self._read[x.name] = self._round(x, grid_of(between, self.scheme.activations))
            self._origins[self._read[x.name].name] = origin
        return self._read[x.name]

    def op(
        self, op_type: str, inputs: list[Value], name: str, shape: Shape, **attributes: Any
    ) -> Value:
        """Append a node that takes rounded values."""
        origin = self._origin(inputs[0])
        if op_type in MOVEMENTS:
            self._origins[name] = origin
        if op_type == "Softmax":
            self._within[name] = (0.0, 1.0)
        part = _part(origin if op_type in MOVEMENTS else name)
        if name != PROBABILITIES:
            inputs = [self._taken(x, part) for x in inputs]
        return GraphBuilder.op(self, op_type, inputs, name, shape, **attributes)

    def split(self, x: Value, parts: dict[str, int], axis: int, name: str) -> list[Value]:
        """Append a Split of a rounded value into parts on its grid."""
        origin = self._origin(x)
        self._origins |= dict.fromkeys(parts, origin)
        return super().split(self._taken(x, _part(origin)), parts, axis, name)

    def finished(self, value: Value, name: str) -> Value:
        """Round an output of the network; what is read from the numbers gets its name."""
        before = value.name
        if self.rounding is not None:
            self._within[before] = self.rounding.ranges[name]
        end = self.rounded(value, _part(before))
        self.points = {name if point == before else point for point in self.points}
        return super().finished(end, name)

    def operands(
        self, x: Value, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], name: str
    ) -> list[Value]:
        """The inputs of a product, all of them rounded, or none."""
        if self.rounds(name):
            return super().operands(x, weight, bias, name)
        numbers = {f"{name}.weight": weight, f"{name}.bias": bias}
        return [x, *(GraphBuilder.weight(self, array, n) for n, array in numbers.items())]

    def weight(self, array: npt.NDArray[np.float32], name: str) -> Value:
        """Add a constant of a node that is no product."""
        return self.row(array, name, name)

    def row(self, numbers: npt.NDArray[np.float32], name: str, part: str) -> Value:
        """Add a constant, rounded like an activation if ``part`` is."""
        if not self.rounds(part):
            return GraphBuilder.weight(self, numbers, name)
        ends = WIDER * float(numbers.min()), WIDER * float(numbers.max())
        grid = grid_of(ends, self.scheme.activations)
        scale = np.array(grid.scale, np.float32)
        return self.parameter(rounded_activations(numbers, grid), scale, name, grid.zero_point)

    def parameter(self, *args: Any, **options: Any) -> Value:
        """Add rounded numbers, which are not to be rounded once more."""
        floats = super().parameter(*args, **options)
        self._parameters.add(floats.name)
        return floats

    def read(self, number: Value, grid: Grid, name: str) -> Value:
        """Append the floats that numbers stand for on a grid, which is their range, too."""
        floats = super().read(number, grid, name)
        self._within[floats.name] = range_of(grid)
        return floats

    def _taken(self, x: Value, part: str) -> Value:
        """A value as a node of ``part`` takes it: rounded, if it is an activation."""
        is_constant = x.array is not None or x.name in self._parameters
        return x if is_constant or x.dtype != np.float32 else self.rounded(x, part)

    def _origin(self, x: Value) -> str:
        """The value whose numbers a value has: before they were moved or rounded."""
        return self._origins.get(x.name, x.name)


def _part(name: str) -> str:
    """The part that a node belongs to: its layer, or itself."""
    if name.startswith((INPUT_NAME, PIXELS)):
        return "patch_embed.0"
    name = name.removesuffix(".gemm").removesuffix(".conv")
    first, *rest = name.split(".")
    if first == "patch_embed" and int(rest[0]) % 2:  # an activation, of the layer before it
        return f"{first}.{int(rest[0]) - 1}"
    return name
