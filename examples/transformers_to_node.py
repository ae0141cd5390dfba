"""A folder as transformers saves it to Node, and its answers beside PyTorch's.

    pip install -c constraints.txt .
    python examples/transformers_to_node.py CHECKPOINT_FOLDER -o levit.onnx

exports a proven ONNX file, installs onnxruntime-node from npm where it is not there yet, and has
both answer the same images.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

import levit_deploy

NODE = Path(__file__).parent / "node"


def in_node(artifact: Path, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What onnxruntime-node computes: (batch, classes); installs it where it is not there yet."""
    if not (NODE / "node_modules" / "onnxruntime-node").is_dir():
        install = ["npm", "install", "--ignore-scripts"]  # the CPU build comes with the package
        subprocess.run(install, cwd=NODE, check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "images.npy", images)
        command = ["node", NODE / "run.mjs", artifact, Path(folder) / "images.npy"]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return np.array([line.split() for line in printed.splitlines()], np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("levit.onnx"))
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    args = parser.parse_args()

    try:
        checkpoint = levit_deploy.load(args.checkpoint)
        levit_deploy.export(checkpoint, "onnx", args.output, force=args.force)
        config = checkpoint.config
        shape = (3, config.in_channels, *config.image_size)
        images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        node = in_node(args.output, images)
    except levit_deploy.LevitDeployError as error:
        raise SystemExit(str(error)) from error
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"Node did not run it: {error}. Are node and npm installed?") from error
    with torch.inference_mode():
        original = checkpoint.model(torch.from_numpy(images)).numpy()

    for i, (one, two) in enumerate(zip(original, node, strict=True)):
        print(f"image {i}: PyTorch class {one.argmax()} ({one.max():.6g})", end=", ")
        print(f"Node class {two.argmax()} ({two.max():.6g})")
    difference = np.abs(original - node).max()
    print(f"largest difference of a logit: {difference:.1e}")
    if not difference <= 1e-3 * np.abs(original).max():  # rounding makes a hundredth of it
        raise SystemExit("Node computes something else. Do not ship it.")


if __name__ == "__main__":
    main()
