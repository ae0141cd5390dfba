"""The grids that int8 numbers stand on: of activations, of weights, and of what goes into a gate.

A grid has a step, the ``scale``, and a ``zero_point``: a byte b is scale times (b - zero_point).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from levit_deploy.choices import Cpu

Kind = Literal["int8", "uint8", "uint16"]  # of the numbers that stand for activations
Range = tuple[float, float]
Weights = npt.NDArray[np.float32]

KINDS: tuple[Kind, ...] = get_args(Kind)
BYTE = 255  # the largest unsigned byte
MOST = 127  # the largest weight; -128 is left out, so that the grid is symmetric
LEAST_SCALE = float(np.finfo(np.float32).tiny)  # smaller numbers lose their digits, or are 0
MOST_OF_A_PAIR = 128  # 255 * 128 is the most that a 16-bit sum of two products holds


@dataclass(frozen=True)
class Grid:
    """Evenly spaced numbers, a whole number of one kind each: ``scale`` is a float32."""

    scale: float
    zero_point: int
    kind: Kind = "uint8"

    @property
    def is_gated(self) -> bool:
        """Whether byte 0 is -3, and 3 is twice the zero point."""
        is_gated = self.zero_point > 0 and self.scale == _single(3 / self.zero_point)
        return is_gated and self.kind == "uint8"


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """How to round a network.

    ``ranges`` has the smallest and largest value of each point, by its name in the float graph.
    ``cpu`` is one of CPUS. ``floats`` names the parts that stay float, by the start of their names:
    a block as 'blocks.3', or one layer as 'blocks.3.m.qkv'. ``weights`` has the rounded weights of
    products by name, if they are not the nearest.
    """

    ranges: Mapping[str, Range]
    cpu: Cpu
    floats: tuple[str, ...] = ()
    weights: Mapping[str, npt.NDArray[np.int8]] = field(default_factory=dict)

    def rounds(self, name: str) -> bool:
        """Whether the part of this name is rounded."""
        return not any(f"{name}.".startswith(f"{part}.") for part in self.floats)


def grid_of(between: Range, kind: Kind = "uint8") -> Grid:
    """The grid for values that lie in a range; 0 is on every grid, and at 0 among signed bytes."""
    low, high, most = min(between[0], 0.0), max(between[1], 0.0), int(np.iinfo(kind).max)
    is_signed = kind == "int8"
    scale = _single(max(-low, high) / MOST if is_signed else (high - low) / most)
    scale = scale if scale >= LEAST_SCALE else 1.0  # all values are 0, or nearly
    zero_point = 0 if is_signed else min(max(round(-low / scale), 0), most)
    return Grid(scale, zero_point, kind)


def range_of(grid: Grid) -> Range:
    """The least and the largest number on a grid."""
    ends = (0, int(np.iinfo(grid.kind).max))
    return (ends[0] - grid.zero_point) * grid.scale, (ends[1] - grid.zero_point) * grid.scale


def rounded_activations(numbers: Weights, grid: Grid) -> npt.NDArray[np.integer[Any]]:
    """Numbers on a grid, as QuantizeLinear rounds them."""
    steps = np.rint(numbers.astype(np.float64) / grid.scale) + grid.zero_point
    steps = np.clip(steps, 0, np.iinfo(grid.kind).max)
    whole: npt.NDArray[np.integer[Any]] = steps.astype(grid.kind)
    return whole


def gated_grid(between: Range) -> Grid:
    """The grid for values that go into a HardSwish: byte 0 is -3, and 0 is a byte of its own.

    So 3 is a whole number of steps. HardSwish is 0 below -3: numbers there may be cut off. If the
    largest value is beyond 254 steps of 3, there is no such grid, and it is a usual one.
    """
    if between[1] > 3 * (BYTE - 1):
        return grid_of((-3.0, between[1]))
    zero_point = min(max(int(3 * BYTE / (max(between[1], 0.0) + 3)), 1), BYTE - 1)
    return Grid(_single(3 / zero_point), zero_point)


def gate_grid(gated: Grid) -> Grid:
    """The grid on which the clipped bytes of gated values are HardSigmoid(x) = (x + 3) / 6."""
    return Grid(_single(1 / (2 * gated.zero_point)), 0)


def rounded_weight(
    weight: Weights, cpu: Cpu, least: npt.NDArray[np.float64] | float = 0.0
) -> tuple[npt.NDArray[np.int8], Weights]:
    """Weights (out, in, ...) as signed bytes, and the scale of each output channel.

    No scale is below ``least``.

    With ``cpu`` 'any', no two products that processors without VNNI add in 16 bits overflow: those
    of neighbours among the inputs of one position, in the order in which runtimes multiply them.
    """
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    steps = np.abs(flat).max(1)
    steps = np.where(steps >= MOST * LEAST_SCALE, steps / MOST, 1.0)
    if cpu == "any":
        steps = np.maximum(steps, _largest_pair(weight) / (MOST_OF_A_PAIR - 1))
    scale = np.maximum(steps, least).astype(np.float32)
    columns = scale.reshape(-1, *[1] * (weight.ndim - 1))
    numbers = np.clip(np.rint(weight / columns), -MOST, MOST).astype(np.int8)
    return numbers, scale


def _largest_pair(weight: Weights) -> npt.NDArray[np.float64]:
    """The largest sum of two neighbours of one sign, by output channel.

    Convolutions go through their inputs position by position, with all channels of one together.
    Some runtimes fill an odd number of channels up with zeros, and others do not.
    """
    if weight.ndim > 2 and weight.shape[1] % 2:
        even = np.pad(weight, [(0, 0), (0, 1), *[(0, 0)] * (weight.ndim - 2)])
        return np.maximum(_largest_in_order(weight), _largest_in_order(even))
    return _largest_in_order(weight)


def _largest_in_order(weight: Weights) -> npt.NDArray[np.float64]:
    last = np.moveaxis(weight, 1, -1).reshape(len(weight), -1).astype(np.float64)
    last = np.pad(last, ((0, 0), (0, last.shape[1] % 2)))
    pairs = [side[:, ::2] + side[:, 1::2] for side in (np.maximum(last, 0), np.minimum(last, 0))]
    largest: npt.NDArray[np.float64] = np.maximum(pairs[0].max(1), -pairs[1].min(1))
    return largest


def rounded_bias(bias: Weights, steps: Weights) -> npt.NDArray[np.int32]:
    """A bias in the steps of the sums it is added to, one step for each channel."""
    most = np.iinfo(np.int32).max
    return np.clip(np.rint(bias.astype(np.float64) / steps), -most, most).astype(np.int32)


def least_scale(bias: Weights, grid: Grid) -> npt.NDArray[np.float64]:
    """The least scale of the weights behind which a bias is a whole number of 32 bits.

    A channel of nearly no weights would have smaller steps. ``grid`` is that of the inputs.
    """
    return np.abs(bias.astype(np.float64)) / (2.0**30 * grid.scale)


def _single(number: float) -> float:
    return float(np.float32(number))
