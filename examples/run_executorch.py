"""The logits of prepared images, by ExecuTorch: one line an image.

    pip install executorch
    python examples/run_executorch.py digits.pte images.npy

The images are float32 (batch, channels, height, width), or uint8 (batch, height, width, channels)
for an artifact that takes bytes, as ``run_onnxruntime.py --save`` and ``numpy.save`` write them. An
artifact that gives probabilities gives those. Its batch is fixed, so it takes the images in turns.
"""

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

warnings.filterwarnings("ignore", "This API is experimental")  # said of ExecuTorch in Python
from executorch.runtime import Runtime  # noqa: E402

Images = npt.NDArray[Any]


def load(artifact: str) -> Callable[[Images], npt.NDArray[np.float32]]:
    """Open an artifact: images -> (batch, classes)."""
    program = Runtime.get().load_program(Path(artifact))
    forward = program.load_method("forward")
    batch = forward.metadata.input_tensor_meta(0).sizes()[0]

    def run(images: Images) -> npt.NDArray[np.float32]:
        if len(images) % batch:
            raise SystemExit(f"{artifact} takes {batch} images at once, and {len(images)} came.")
        turns = torch.from_numpy(images).split(batch)
        return np.concatenate([forward.execute([turn])[0].numpy() for turn in turns])

    return run


def read_metadata(artifact: str) -> dict[str, str]:
    """The strings that levit-deploy wrote, with the preprocessing and the labels."""
    (text,) = Runtime.get().load_program(Path(artifact)).load_method("provenance").execute([])
    return json.loads(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact")
    parser.add_argument("images", metavar="images.npy")
    args = parser.parse_args()
    output = read_metadata(args.artifact)["output"]
    if output == "feature-maps":
        raise SystemExit("The network gives several feature maps, and this prints one output.")
    for logits in load(args.artifact)(np.load(args.images)):
        print(*(f"{logit:.9g}" for logit in logits))


if __name__ == "__main__":
    main()
