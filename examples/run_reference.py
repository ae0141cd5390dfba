"""The logits of prepared images, by onnx's reference evaluator, in numpy: one line an image.

    pip install onnx
    python examples/run_reference.py digits.onnx images.npy

The images are float32 (batch, channels, height, width), or uint8 (batch, height, width, channels)
for an artifact that takes bytes, as ``run_onnxruntime.py --save`` and ``numpy.save`` write them. An
artifact that gives probabilities gives those.
"""

import argparse
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from onnx.reference import ReferenceEvaluator

Images = npt.NDArray[np.float32]


def load(artifact: str) -> Callable[[Images], npt.NDArray[np.float32]]:
    """Read an artifact: float32 (batch, channels, height, width) -> (batch, classes)."""
    evaluator = ReferenceEvaluator(artifact)
    (name,) = evaluator.input_names
    return lambda images: evaluator.run(None, {name: images})[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact")
    parser.add_argument("images", metavar="images.npy")
    args = parser.parse_args()
    for logits in load(args.artifact)(np.load(args.images)):
        print(*(f"{logit:.9g}" for logit in logits))


if __name__ == "__main__":
    main()
