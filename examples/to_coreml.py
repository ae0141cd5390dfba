"""A checkpoint to a Core ML package, for Apple's systems; on a Mac, its answers beside PyTorch's.

    pip install -c constraints.txt . && pip install coremltools
    python examples/to_coreml.py digits.pth -o digits.mlpackage

The layers are those that levit-deploy fuses and proves. coremltools converts them anywhere, and
only macOS runs the result. No Mac was at hand: on one, the comparison decides.
"""

import argparse
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import coremltools
import numpy as np
import torch

import levit_deploy


def convert(plain: torch.nn.Module, shape: tuple[int, ...]) -> coremltools.models.MLModel:
    """A Core ML program of one image, in float32: pixel_values -> logits."""
    program = torch.export.export(plain, (torch.zeros(shape),)).run_decompositions({})
    return coremltools.convert(
        program,
        inputs=[coremltools.TensorType("pixel_values", shape)],
        outputs=[coremltools.TensorType("logits")],
        compute_precision=coremltools.precision.FLOAT32,  # to be comparable; float16 is the default
        minimum_deployment_target=coremltools.target.iOS16,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("levit.mlpackage"))
    parser.add_argument("--force", action="store_true", help="replace an existing package")
    args = parser.parse_args()
    if args.output.exists() and not args.force:
        raise SystemExit(f"{args.output} exists. Add --force to replace it.")

    try:
        checkpoint = levit_deploy.load(args.checkpoint)
        with tempfile.TemporaryDirectory() as folder:
            fused = Path(folder) / "fused.safetensors"
            levit_deploy.fuse(checkpoint, fused)
            plain = levit_deploy.load(fused).model
    except levit_deploy.LevitDeployError as error:
        raise SystemExit(str(error)) from error
    config = checkpoint.config
    shape = (1, config.in_channels, *config.image_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a torch that is newer than coremltools has tried
        program = convert(plain, shape)
    program.short_description = f"Fused by levit-deploy from SHA-256 {checkpoint.sha256}."
    program.user_defined_metadata["preprocessing"] = str(checkpoint.preprocessing)
    if args.output.exists():
        shutil.rmtree(args.output)
    program.save(str(args.output))
    print(f"{args.output}: converted")

    if sys.platform != "darwin":
        print("Core ML runs on Apple's systems alone. Run this on a Mac to have it compared.")
        return
    images = np.random.default_rng(0).standard_normal((3, *shape), dtype=np.float32)
    with torch.inference_mode():
        original = checkpoint.model(torch.from_numpy(images[:, 0])).numpy()
    answers = np.concatenate([program.predict({"pixel_values": x})["logits"] for x in images])
    difference = np.abs(original - answers).max()
    print(f"largest difference of a logit: {difference:.1e}")
    if not difference <= 1e-3 * np.abs(original).max():  # rounding makes a hundredth of it
        raise SystemExit("Core ML computes something else. Do not ship it.")


if __name__ == "__main__":
    main()
