"""The normalisation and the softmax around the network, always in float32.

The normalisation cannot be folded into the first convolution: its zero padding is zeros of the
normalised image, the mean colour. Zeros among the bytes would be black.
"""

import numpy as np
import numpy.typing as npt

from levit_deploy.interface import INPUT_NAME, PROBABILITIES
from levit_deploy.targets.onnx_graph import GraphBuilder, Value, dims


def normalised_pixels(
    g: GraphBuilder, pixels: Value, mean: npt.NDArray[np.float64], std: npt.NDArray[np.float64]
) -> Value:
    """Append (pixels / 255 - mean) / std: uint8 (B, H, W, C) -> float32 (B, C, H, W).

    ``mean`` and ``std`` (C) are of pixels from 0 to 1; here they are of bytes, rounded once.
    """
    name = pixels.name
    x = g.transpose(pixels, f"{name}.channels_first", [0, 3, 1, 2])  # while it is a byte each
    x = g.cast(x, f"{name}.float", np.float32)
    offset = (255 * mean).astype(np.float32).reshape(-1, 1, 1)
    factor = (1 / (255 * std)).astype(np.float32).reshape(-1, 1, 1)
    x = g.like("Sub", [x, g.constant(offset, f"{name}.mean")], f"{name}.centred")
    return g.like("Mul", [x, g.constant(factor, f"{name}.factor")], INPUT_NAME)


def probabilities(g: GraphBuilder, logits: Value) -> Value:
    """Append the softmax over the classes: (B, classes) -> (B, classes)."""
    return g.op("Softmax", [logits], PROBABILITIES, dims(logits), axis=1)
