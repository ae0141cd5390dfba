"""The logits of prepared images, by onnxruntime on an NVIDIA GPU: one line an image.

    pip install onnxruntime-gpu
    levit-deploy export digits.pth --precision fp16 -o digits.fp16.onnx
    python examples/run_onnxruntime_gpu.py digits.fp16.onnx images.npy

The images are as for ``run_openvino.py``. Without a GPU, the CPU computes them, and a sentence says
so. No GPU was at hand when this was written: the test runs it on the CPU.
"""

import argparse
import sys

import numpy as np
import onnxruntime


def load(artifact: str) -> onnxruntime.InferenceSession:
    """Open an artifact on the first GPU, or on the CPU if there is none that works."""
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    there = onnxruntime.get_available_providers()
    session = onnxruntime.InferenceSession(artifact, providers=[p for p in wanted if p in there])
    if session.get_providers()[0] != wanted[0]:  # CUDA's own libraries may be missing, too
        why = "does not start" if wanted[0] in there else "is not in this onnxruntime"
        print(f"CUDA {why}, so the CPU computes. Install onnxruntime-gpu.", file=sys.stderr)
    return session


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact")
    parser.add_argument("images", metavar="images.npy")
    args = parser.parse_args()
    session, images = load(args.artifact), np.load(args.images)
    for logits in session.run(None, {session.get_inputs()[0].name: images})[0]:
        print(*(f"{logit:.9g}" for logit in logits))


if __name__ == "__main__":
    main()
