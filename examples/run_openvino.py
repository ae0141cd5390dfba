"""The logits of prepared images, by OpenVINO: one line an image.

    pip install openvino
    python examples/run_openvino.py digits.onnx images.npy

The images are float32 (batch, channels, height, width), or uint8 (batch, height, width, channels)
for an artifact that takes bytes, as ``run_onnxruntime.py --save`` and ``numpy.save`` write them. An
artifact that gives probabilities gives those.
"""

import argparse
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import openvino

Images = npt.NDArray[np.float32]


def load(artifact: str) -> Callable[[Images], npt.NDArray[np.float32]]:
    """Compile an artifact: float32 (batch, channels, height, width) -> (batch, classes)."""
    # without the hint, a processor that has bfloat16 would compute float32 networks in that
    program = openvino.Core().compile_model(artifact, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: np.array(program(images)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact")
    parser.add_argument("images", metavar="images.npy")
    args = parser.parse_args()
    for logits in load(args.artifact)(np.load(args.images)):
        print(*(f"{logit:.9g}" for logit in logits))


if __name__ == "__main__":
    main()
