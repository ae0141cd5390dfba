"""A graph under construction whose values can be rounded to bytes on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from levit_deploy.targets.onnx_graph import Dim, Emitter, GraphBuilder, Shape, Value, dims
from levit_deploy.targets.onnx_opsets import MOVEMENTS
from levit_deploy.targets.onnx_rounding import (
    BYTE,
    Grid,
    Kind,
    Range,
    Rounding,
    gated_grid,
    grid_of,
    least_scale,
    rounded_bias,
    rounded_weight,
)
from levit_deploy.targets.onnx_schemes import ON_BYTES, Scheme


class Int8Builder(GraphBuilder):
    """Builds the int8 form of a network: with its numbers rounded, or, without ``rounding``, not.

    The unrounded form has the same nodes in float. ``points`` are the values that can be rounded,
    by name, and ``parts`` are those that can stay float, in their order. The ranges of a
    ``Rounding`` are those of the points in the unrounded form. ``scheme`` tells what is rounded.
    """

    def __init__(
        self,
        opset: int,
        batch: Dim,
        emitters: Mapping[type[nn.Module], Emitter],
        model: nn.Module,
        rounding: Rounding | None = None,
        scheme: Scheme = ON_BYTES,
    ) -> None:
        super().__init__(opset, batch, emitters)
        self.rounding = rounding
        self.scheme = scheme
        self.points: set[str] = set()
        self.parts: dict[str, None] = {}
        self._modules = dict(model.named_modules())
        self._read: dict[str, Value] = {}  # the floats read from the rounding of a value
        self._bytes: dict[str, tuple[Value, Grid]] = {}  # that such floats are read from

    def rounded(
        self,
        x: Value,
        part: str,
        *,
        gated: bool = False,
        within: Range | None = None,
        kind: Kind | None = None,
    ) -> Value:
        """Append the rounding of ``x`` for ``part``, unless that stays float, or ``x`` is rounded.

        ``gated`` values go into a HardSwish, and ``within`` is their range if it is known. ``kind``
        is that of the numbers, if not the scheme's. Returns the floats read from the bytes.
        """
        if within is None:
            self.points.add(x.name)
        if not self.rounds(part) or self.rounding is None:
            return x
        if x.name in self._bytes:
            return x
        if x.name not in self._read:
            between = within or self.rounding.ranges[x.name]
            grid = (
                gated_grid(between) if gated else grid_of(between, kind or self.scheme.activations)
            )
            self._read[x.name] = self._round(x, grid)
        return self._read[x.name]

    def rounds(self, part: str) -> bool:
        """Whether the part of this name computes with rounded numbers."""
        self.parts[part] = None
        return self.rounding is not None and self.rounding.rounds(part)

    def module(self, name: str) -> nn.Module | None:
        """The module of this name."""
        return self._modules.get(name)

    def behind(self, name: str) -> tuple[str, nn.Module | None]:
        """The module behind the one of this name, with its own name, if that is in a sequence."""
        sequence, _, number = name.rpartition(".")
        following = f"{sequence}.{int(number) + 1}" if number.isdecimal() else ""
        return following, self.module(following)

    def bytes_of(self, x: Value) -> tuple[Value, Grid] | None:
        """The bytes of a value that ``rounded`` returned, and their grid; None for a float one."""
        return self._bytes.get(x.name)

    def byte(self, number: int) -> Value:
        """Add an unsigned byte; equal ones are stored once."""
        return self.number(number, "uint8")

    def number(self, number: int, kind: Kind) -> Value:
        """Add a whole number of a kind; equal ones are stored once."""
        return self.constant(np.array(number, kind), f"{kind}.{number}")

    def read(self, number: Value, grid: Grid, name: str) -> Value:
        """Append the floats that bytes stand for on a grid."""
        inputs = [number, *self._constants(grid)]
        return self.op("DequantizeLinear", inputs, f"{name}_DequantizeLinear", dims(number))

    def op(
        self, op_type: str, inputs: list[Value], name: str, shape: Shape, **attributes: Any
    ) -> Value:
        """Append a node; one that moves a rounded value moves its bytes, or the floats read."""
        known = self.bytes_of(inputs[0])
        if known is None or op_type not in MOVEMENTS:
            return super().op(op_type, inputs, name, shape, **attributes)
        number, grid = known
        if not self.scheme.moves_bytes:
            moved = super().op(op_type, inputs, name, shape, **attributes)
            self._bytes[name] = number, grid
            return moved
        moved = super().op(op_type, [number, *inputs[1:]], name, shape, **attributes)
        return self._remember(moved, grid, name)

    def operands(
        self, x: Value, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], name: str
    ) -> list[Value]:
        """The inputs of a product, all of them rounded, or none."""
        x = self.rounded(x, name)
        if not self.rounds(name) or self.rounding is None:
            return super().operands(x, weight, bias, name)
        known = self.bytes_of(x)
        assert known is not None
        least = least_scale(bias, known[1])
        nearest, scale = rounded_weight(weight, self.rounding.cpu, least)
        numbers = self.rounding.weights.get(name, nearest)
        step = np.float32(known[1].scale) * scale
        return [
            x,
            self.parameter(numbers, scale, f"{name}.weight"),
            self.parameter(rounded_bias(bias, step), step, f"{name}.bias"),
        ]

    def parameter(
        self,
        numbers: npt.NDArray[np.integer[Any]],
        scale: npt.NDArray[np.float32],
        name: str,
        zero_point: int = 0,
    ) -> Value:
        """Add rounded numbers as the floats they stand for, by a scale for each row or for all."""
        zeros = np.full(scale.shape, zero_point, numbers.dtype)
        inputs = [
            self.constant(numbers, f"{name}_quantized"),
            self.constant(scale, f"{name}_scale"),
            self.constant(zeros, f"{name}_zero_point"),
        ]
        axis = {"axis": 0} if scale.ndim else {}
        floats, shape = f"{name}_DequantizeLinear", numbers.shape
        return self.op("DequantizeLinear", inputs, floats, shape, **axis)

    def row(self, numbers: npt.NDArray[np.float32], name: str, part: str) -> Value:
        """Add numbers of 0 or below, rounded if ``part`` is."""
        if not self.rounds(part):
            return self.weight(numbers, name)
        scale = np.float32(-numbers.min() / BYTE or 1)
        bytes_ = BYTE - np.clip(np.rint(-numbers / scale), 0, BYTE)
        return self.parameter(bytes_.astype(np.uint8), np.array(scale), name, zero_point=BYTE)

    def _round(self, x: Value, grid: Grid) -> Value:
        name = f"{x.name}_QuantizeLinear"
        number = super().op("QuantizeLinear", [x, *self._constants(grid)], name, dims(x))
        return self._remember(number, grid, x.name)

    def _remember(self, number: Value, grid: Grid, name: str) -> Value:
        floats = self.read(number, grid, name)
        self._bytes[floats.name] = number, grid
        return floats

    def _constants(self, grid: Grid) -> list[Value]:
        """The scale and zero point as scalars; equal ones are stored once."""
        return [self.scalar(grid.scale), self.number(grid.zero_point, grid.kind)]
