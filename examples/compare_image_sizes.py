"""Export the demo's network at other image sizes than its own, and measure what that costs.

    pip install -c constraints.txt .
    python examples/compare_image_sizes.py 32 48 64 80 96

prints the accuracy of each proven artifact on the held-out digits, resized. The attention biases
are interpolated; the weights are those trained at 64x64.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch.nn import functional

from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.demo.demonstration import read_demo_checkpoint
from levit_deploy.demo.digits import held_out
from levit_deploy.pipeline import export
from levit_deploy.targets.load import load_artifact


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="+", type=int)
    args = parser.parse_args()

    digits = held_out()
    images = torch.from_numpy(digits.images)
    with tempfile.TemporaryDirectory() as folder:
        path = read_demo_checkpoint(Path(folder)).path
        for size in args.sizes:
            checkpoint = read_checkpoint(path, image_size=(size, size))
            published = export(checkpoint, "onnx", Path(folder) / f"{size}.onnx")
            resized = functional.interpolate(images, size=(size, size), mode="bicubic")
            logits = load_artifact(published.path).run(resized.numpy())
            top1 = 100 * (logits.argmax(1) == digits.labels).mean()
            tokens = "{}x{}".format(*checkpoint.config.resolutions[0])
            print(f"{size}x{size}, {tokens} tokens: {top1:.2f} % of {len(logits)}")


if __name__ == "__main__":
    main()
