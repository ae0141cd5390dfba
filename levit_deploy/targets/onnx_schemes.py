"""The schemes by which networks are rounded, each for another kind of runtime."""

from __future__ import annotations

from dataclasses import dataclass

from levit_deploy.targets.onnx_rounding import Kind


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """What is rounded, and to which numbers.

    ``activations`` is the kind of their numbers. With ``every_value``, the outputs of all nodes are
    rounded, and not only those that are worth it.
    """

    activations: Kind = "uint8"
    every_value: bool = False


ON_BYTES = Scheme()  # that onnxruntime runs fastest
