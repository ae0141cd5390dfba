"""What a picture shows, by onnxruntime alone: prints the five likeliest classes.

    pip install onnxruntime pillow
    python examples/run_onnxruntime.py digits.onnx photo.jpg another.png

Nothing of levit-deploy is imported: how a picture becomes an input, and what the classes are
called, is in the artifact's metadata. For the other examples, whose runtimes read neither,
``--save FILE.npy`` keeps the inputs: float32 (batch, channels, height, width), or uint8 (batch,
height, width, channels) where the artifact takes bytes.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image, ImageOps


def fit(path: Path, shape: tuple[int, int, int], how: dict[str, Any]) -> npt.NDArray[np.uint8]:
    """Resize and crop the middle: uint8 (height, width, channels)."""
    if how["unsupported"]:
        raise SystemExit(f"Pictures cannot be prepared for this network: {how['unsupported']}.")
    height, width, channels = shape
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file)
    if picture.mode.startswith(("I", "F")):
        raise SystemExit(f"{path} has more than 8 bits a channel. Convert it.")
    picture = picture.convert("RGBA" if picture.mode in ("P", "PA") else picture.mode)
    picture = picture.convert("L" if channels == 1 else "RGB")

    rows, columns = (math.floor(side / how["crop_fraction"]) for side in (height, width))
    square = rows == columns  # which torchvision resizes; others are for timm, to the last bit
    tall, wide = picture.height, picture.width
    resize = how.get("resize", "cover")
    if resize not in ("cover", "stretch"):
        raise SystemExit(f"Pictures for this network are resized by {resize!r}, not known here.")
    if resize == "stretch":
        pass  # to the sides as they are
    elif tall * columns <= wide * rows:
        columns = int(rows * wide / tall) if square else round(wide / (tall / rows))
    else:
        rows = int(columns * tall / wide) if square else round(tall / (wide / columns))
    picture = picture.resize((columns, rows), Image.Resampling[how["interpolation"].upper()])
    half = math.floor if how.get("truncated") else round  # as transformers, as torchvision
    top, left = half((rows - height) / 2), half((columns - width) / 2)
    picture = picture.crop((left, top, left + width, top + height))
    return np.asarray(picture, np.uint8).reshape(shape)


def normalise(pixels: npt.NDArray[np.uint8], how: dict[str, Any]) -> npt.NDArray[np.float32]:
    """Scale to 0..1 and normalise: float32 (channels, height, width)."""
    mean, std = np.array(how["mean"], np.float32), np.array(how["std"], np.float32)
    if pixels.shape[-1] == 1:  # of three colours, where the network was trained on grey
        mean, std = mean.mean(keepdims=True), std.mean(keepdims=True)
    return ((pixels.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--save", type=Path, metavar="FILE.npy")
    args = parser.parse_args()

    session = onnxruntime.InferenceSession(args.artifact, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    how = json.loads(metadata["preprocessing"])
    labels = json.loads(metadata.get("labels", "[]"))
    if how["assumed"]:
        print("No config said how pictures are prepared. It is as for ImageNet.", file=sys.stderr)

    if metadata.get("output", "logits") not in ("logits", "probabilities"):
        raise SystemExit(f"The network gives {metadata['output']}, and no classes.")
    (given,), (gives,) = session.get_inputs(), session.get_outputs()
    usual = "single_label_classification"
    if metadata.get("problem_type", usual) != usual or gives.shape[-1] == 1:
        raise SystemExit("The network's logits are not for one class of several.")

    batch, *shape = given.shape
    if metadata.get("input") == "uint8":  # it normalises them itself
        images = np.stack([fit(path, shape, how) for path in args.pictures])
    else:
        shape = (*shape[1:], shape[0])  # as bytes have it
        images = np.stack([normalise(fit(path, shape, how), how) for path in args.pictures])
    if args.save is not None:
        np.save(args.save, images)

    for path, image in zip(args.pictures, images, strict=True):
        filled = np.stack([image] * (batch if isinstance(batch, int) else 1))
        (found,) = session.run(None, {given.name: filled})
        probabilities, said = found[0], [""] * len(found[0])
        if metadata.get("output") != "probabilities":
            said = [f"  logit {logit:<14.9g}" for logit in found[0]]
            probabilities = np.exp(found[0] - found[0].max())
            probabilities /= probabilities.sum()
        print(path)
        for index in np.argsort(-found[0], kind="stable")[:5]:
            name = labels[index] if labels else f"class {index}"
            print(f"  {probabilities[index]:7.2%}{said[index]}  {name}")


if __name__ == "__main__":
    main()
