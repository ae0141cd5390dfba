"""An official checkpoint to a C++ program, and its answers beside PyTorch's.

    pip install -c constraints.txt .
    python examples/official_to_cpp.py digits.pth -o digits.torchscript.pt --build build

exports a proven TorchScript file, builds examples/cpp in the build folder with CMake and a C++20
compiler against the libtorch that comes with torch, and has both answer the same images.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

import levit_deploy

SOURCE = Path(__file__).parent / "cpp"


def in_cpp(artifact: Path, build: Path, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What the program computes: (batch, classes); it is built first."""
    prefix = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
    configure = ["cmake", "-S", SOURCE, "-B", build, "-DCMAKE_BUILD_TYPE=Release", prefix]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", build], check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "images.npy", images)
        command = [build.resolve() / "run", artifact, Path(folder) / "images.npy"]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return np.array([line.split() for line in printed.splitlines()], np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("levit.torchscript.pt"))
    parser.add_argument("--build", type=Path, default=Path("build"))
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    args = parser.parse_args()

    try:
        checkpoint = levit_deploy.load(args.checkpoint)
        levit_deploy.export(checkpoint, "torchscript", args.output, force=args.force)
        config = checkpoint.config
        shape = (3, config.in_channels, *config.image_size)
        images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        cpp = in_cpp(args.output, args.build, images)
    except levit_deploy.LevitDeployError as error:
        raise SystemExit(str(error)) from error
    except (OSError, subprocess.CalledProcessError) as error:
        why = f"C++ did not run it: {error}. Are CMake and a C++20 compiler installed?"
        raise SystemExit(why) from error
    with torch.inference_mode():
        original = checkpoint.model(torch.from_numpy(images)).numpy()

    for i, (one, two) in enumerate(zip(original, cpp, strict=True)):
        print(f"image {i}: PyTorch class {one.argmax()} ({one.max():.6g})", end=", ")
        print(f"C++ class {two.argmax()} ({two.max():.6g})")
    difference = np.abs(original - cpp).max()
    print(f"largest difference of a logit: {difference:.1e}")
    if not difference <= 1e-3 * np.abs(original).max():  # rounding makes a hundredth of it
        raise SystemExit("The C++ program computes something else. Do not ship it.")


if __name__ == "__main__":
    main()
