"""The logits of prepared images, by OpenCV's DNN module: one line an image.

    pip install opencv-python-headless
    python examples/run_opencv.py digits.onnx images.npy

The images are float32 (batch, channels, height, width), or uint8 (batch, height, width, channels)
for an artifact that takes bytes, as ``run_onnxruntime.py --save`` and ``numpy.save`` write them. An
artifact that gives probabilities gives those.
"""

import argparse
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.float32]


def load(artifact: str) -> Callable[[Images], npt.NDArray[np.float32]]:
    """Read an artifact: float32 (batch, channels, height, width) -> (batch, classes)."""
    network = cv2.dnn.readNetFromONNX(artifact)

    def run(images: Images) -> npt.NDArray[np.float32]:
        network.setInput(images)
        return np.array(network.forward(), np.float32)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact")
    parser.add_argument("images", metavar="images.npy")
    args = parser.parse_args()
    for logits in load(args.artifact)(np.load(args.images)):
        print(*(f"{logit:.9g}" for logit in logits))


if __name__ == "__main__":
    main()
