"""The schemes by which networks are rounded, each for another kind of runtime."""

from __future__ import annotations

from dataclasses import dataclass

from levit_deploy.choices import Precision
from levit_deploy.targets.onnx_rounding import Kind


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """What is rounded for a ``precision``, and to which numbers.

    ``activations`` is the kind of their numbers. With ``every_value``, the outputs of all nodes are
    rounded, and not only those that are worth it. ``moves_bytes`` has bytes transposed before they
    are read as floats, and not the floats.
    """

    precision: Precision = "int8"
    activations: Kind = "uint8"
    every_value: bool = False
    moves_bytes: bool = True


ON_BYTES = Scheme()  # that onnxruntime runs fastest
FOR_OPENVINO = Scheme(activations="int8", moves_bytes=False)
W8A16 = Scheme(precision="w8a16", activations="uint16", every_value=True)  # of NPUs
