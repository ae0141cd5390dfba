"""An official checkpoint to a C++ program, and its answers beside PyTorch's.

    pip install -c constraints.txt .
    python examples/official_to_cpp.py digits.pth --build build

exports a proven TorchScript file into the build folder, builds examples/cpp there with CMake and a
C++20 compiler against the libtorch that comes with torch, and has both answer the same images.
"""

import argparse
import subprocess
from pathlib import Path

import numpy as np
import torch

import levit_deploy

SOURCE = Path(__file__).parent / "cpp"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--build", type=Path, default=Path("build"))
    args = parser.parse_args()
    args.build.mkdir(parents=True, exist_ok=True)

    checkpoint = levit_deploy.load(args.checkpoint)
    artifact = args.build / f"{args.checkpoint.stem}.torchscript.pt"
    levit_deploy.export(checkpoint, "torchscript", artifact, force=True)

    prefix = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
    configure = ["cmake", "-S", SOURCE, "-B", args.build, "-DCMAKE_BUILD_TYPE=Release", prefix]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", args.build], check=True, stdout=subprocess.DEVNULL)

    config = checkpoint.config
    shape = (3, config.in_channels, *config.image_size)
    images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    np.save(args.build / "images.npy", images)
    command = [args.build.resolve() / "run", artifact, args.build / "images.npy"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    cpp = np.array([line.split() for line in printed.splitlines()], np.float32)
    with torch.inference_mode():
        original = checkpoint.model(torch.from_numpy(images)).numpy()

    for i, (one, two) in enumerate(zip(original, cpp, strict=True)):
        print(f"image {i}: PyTorch class {one.argmax()} ({one.max():.6g})", end=", ")
        print(f"C++ class {two.argmax()} ({two.max():.6g})")
    print(f"largest difference of a logit: {np.abs(original - cpp).max():.1e}")


if __name__ == "__main__":
    main()
